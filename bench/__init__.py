"""Benchmarks: what the client API costs, next to another router over the same engine."""
