"""What one node shows of its fleet: the nodes, its own streams, a timeline, and how well streams continued."""
