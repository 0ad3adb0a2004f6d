"""`make run`: a fleet on this machine whose nodes are interrupted while clients read."""
