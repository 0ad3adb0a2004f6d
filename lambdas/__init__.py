"""Housekeeping after EC2's events: tags and records kept in order. Nothing that a client sees waits for any of this."""
