"""Journals of streams, sent to other nodes and received from them."""
