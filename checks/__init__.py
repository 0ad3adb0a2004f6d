"""Checks with tools that are too heavy for the development environment, and generators of documentation."""
