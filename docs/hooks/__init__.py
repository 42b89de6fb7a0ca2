"""The generator of the reference pages, which MkDocs runs as a hook when it builds the site."""
