"""What can go wrong with the local run for reasons that a person can mend: one clear line each."""

from __future__ import annotations


class LocalRunError(Exception):
    """One line that says what is wrong and what to do about it."""
