"""Whose fault a failed request is, and what follows."""
