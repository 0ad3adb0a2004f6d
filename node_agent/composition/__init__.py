"""Compose a node from its parts. `node.py` connects them; each other module makes the parts of one feature."""
