"""Journals at other nodes: where they are stored, when an event may be sent, how a stream is read back."""
