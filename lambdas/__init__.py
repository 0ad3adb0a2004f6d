"""Lambda handlers that update nodes' tags and records after EC2's events. No client request waits for them."""
