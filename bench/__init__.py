"""`make bench`: what Synkti's front door costs, next to another router over the same engine."""
