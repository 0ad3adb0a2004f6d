"""Chaos: a fleet of real agents under load, nodes taken away at random, every stream compared with its known answer."""
