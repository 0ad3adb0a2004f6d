"""How a function of vLLM's is replaced by one that calls it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

Function = Callable[..., Any]


def around(owner: type, name: str, make: Callable[[Function], Function]) -> None:
    """Replace owner.name by make(what it was). Raises AttributeError where vLLM has no such function."""
    was = getattr(owner, name)
    setattr(owner, name, functools.wraps(was)(make(was)))


def around_classmethod(owner: type, name: str, make: Callable[[Function], Function]) -> None:
    """As `around`, for a class method: make gets and returns functions that take the class first."""
    was = getattr(owner, name).__func__
    setattr(owner, name, classmethod(functools.wraps(was)(make(was))))
