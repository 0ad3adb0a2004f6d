"""The document of clients' keys, as far as the stack that creates it has to know it."""

VERSION = 1
"""Of the document's form (`node_agent/core/access/key_document`)."""
