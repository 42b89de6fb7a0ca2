"""Scripts that make the pictures of the documentation, and the extension that renders its formulas."""
