"""A fleet on virtual time: the agent's real machines, on a network, with clocks and an EC2 that are played.

`make simulate NODES=1000 SEED=1`. Nothing here is imported by what runs on a node.
"""
