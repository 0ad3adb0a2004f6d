"""Replicate journals: send them to other nodes, receive theirs, and take streams over."""
