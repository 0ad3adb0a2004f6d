"""Run a drain: hand streams off, and record each step."""
