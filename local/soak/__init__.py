"""Soak: a thousand concurrent streams through three nodes, an interruption every 20 s, and measured nodes."""
