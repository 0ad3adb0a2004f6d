"""Constructs: one part of the infrastructure each."""
