"""Which streams leave a node that is reclaimed, when, and for which node."""
