"""Decide which requests of clients get through to an engine, and with which fields."""
