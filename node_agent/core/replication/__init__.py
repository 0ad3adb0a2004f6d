"""Replicate journals to other nodes: placement, commit, wire format, storage and checkpoints."""
