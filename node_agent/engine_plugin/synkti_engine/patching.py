"""Replace a function of vLLM by one that wraps it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

Function = Callable[..., Any]


def wrap_method(owner: type, name: str, make: Callable[[Function], Function]) -> None:
    """Replace owner.name by make(what it was). Raises AttributeError where vLLM has no such function."""
    was = getattr(owner, name)
    setattr(owner, name, functools.wraps(was)(make(was)))


def wrap_classmethod(owner: type, name: str, make: Callable[[Function], Function]) -> None:
    """As `wrap_method`, for a class method: make gets and returns functions that take the class first."""
    was = getattr(owner, name).__func__
    setattr(owner, name, classmethod(functools.wraps(was)(make(was))))
