"""Checks of the templates by tools that are too heavy for the development environment."""
