"""Attribute a failed request to a party, and decide what follows."""
