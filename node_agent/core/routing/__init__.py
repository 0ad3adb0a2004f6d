"""Which engine serves a request, and whether a request is admitted."""
