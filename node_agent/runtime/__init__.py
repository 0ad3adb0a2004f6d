"""Loops and doors: wait for something, make an event or an answer of it, repeat."""
