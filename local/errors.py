"""Errors of the local run: each message is one clear line, with the end of the log that explains it."""

from __future__ import annotations


class LocalRunError(Exception):
    """An error whose message says what is wrong and what to do about it."""


class UserActionRequired(LocalRunError):
    """Raised before any node starts: the user has to fix something on this machine first."""
