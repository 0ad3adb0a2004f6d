"""This node's loops: gossip, interruptions, tags and records, clock, memory, metrics."""
