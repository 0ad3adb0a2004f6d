"""The peer API: the HTTP server that other nodes call."""
