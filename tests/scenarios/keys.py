"""Lets a header name the caller of a request, in place of a key: the limits and turns behind it are the real ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from node_agent.core.access.caller import ANYBODY, Caller, KeyLimits, Scope
from tests.scenarios.local_fleet import LocalFleet

HEADER = "x-test-key"


def callers_by_header(limits: dict[str, KeyLimits]) -> Callable[[Mapping[bytes, bytes], str, Scope], Caller]:
    """Return what identifies a caller: the key that a header names, with these limits; anybody without the header."""

    def identify(headers: Mapping[bytes, bytes], target: str, scope: Scope) -> Caller:
        name = headers.get(HEADER.encode(), b"").decode()
        return Caller(name, name, frozenset(Scope), limits.get(name, KeyLimits())) if name else ANYBODY

    return identify


def use_keys(fleet: LocalFleet, **limits: KeyLimits) -> None:
    """Have all nodes of a fleet take callers from the header. limits: by the names of keys."""
    for node in fleet.nodes:
        node.agent.parts.clients.keys.identify = callers_by_header(limits)  # type: ignore[method-assign,assignment] # its own parameters' names


def as_key(name: str) -> dict[str, str]:
    """Return the header of a request of this key. name: also its id, in hexadecimal digits where a stream resumes."""
    return {HEADER: name}
