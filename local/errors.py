"""What can go wrong with the local run: one clear line each, with the end of the log that explains it."""

from __future__ import annotations


class LocalRunError(Exception):
    """What is wrong, and what to do about it."""


class UserActionRequired(LocalRunError):
    """No node was started: a person has to mend something on this machine first."""
