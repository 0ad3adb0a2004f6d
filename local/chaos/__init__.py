"""Chaos: a fleet of real agents under load, with faults at random, and every output compared with the expected one."""
