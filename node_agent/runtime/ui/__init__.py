"""The page of a node: its files, and the snapshots of the fleet that it shows."""
