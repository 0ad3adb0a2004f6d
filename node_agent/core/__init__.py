"""Decisions, and nothing else: pure machines and functions, fed with time and randomness, tested on virtual time."""
