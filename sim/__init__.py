"""A simulated fleet on virtual time: the agent's real machines, on simulated networks, clocks and EC2.

`make simulate NODES=1000 SEED=1`. Nothing here is imported by what runs on a node.
"""
