"""The model card: what is declared, recorded and measured of a model, as one document, a page and Markdown.

All figures are of test rows, on which the model was not trained.
"""

__all__ = ["card_document", "card_sections", "markdown"]
