"""Decide for one node: its lifecycle, status, clock, memory, discovery and model."""
