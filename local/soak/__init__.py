"""Soak: a thousand streams at once through three nodes, an interruption every 20 s, and what that does to the nodes."""
