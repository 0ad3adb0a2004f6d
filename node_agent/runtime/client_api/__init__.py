"""The client API: the HTTP server that clients call."""
