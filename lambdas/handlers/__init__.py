"""One handler for each kind of event. An error fails the invocation: EventBridge retries, then the queue stores it."""
