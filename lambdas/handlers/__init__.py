"""One handler for each event of EC2. A failure fails the invocation: EventBridge retries, then the queue keeps it."""
