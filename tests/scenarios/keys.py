"""Lets a header name the caller of a request, in place of a key: the limits and turns behind it are the real ones."""

from __future__ import annotations

from collections.abc import Callable

from node_agent.core.access.caller import ANYBODY, Caller, KeyLimits, Scope
from node_agent.ports import ServerRequest
from tests.scenarios.local_fleet import LocalFleet

HEADER = "x-test-key"


def callers_by_header(limits: dict[str, KeyLimits]) -> Callable[[ServerRequest], Caller]:
    """Return who sent a request: the key that its header names, with these limits; anybody where it has no header."""

    def caller_of(request: ServerRequest) -> Caller:
        name = request.headers.get(HEADER.encode(), b"").decode()
        return Caller(name, name, frozenset(Scope), limits.get(name, KeyLimits())) if name else ANYBODY

    return caller_of


def use_keys(fleet: LocalFleet, **limits: KeyLimits) -> None:
    """Have all nodes of a fleet take callers from the header. limits: by the names of keys."""
    for node in fleet.nodes:
        node.agent.parts.clients.api.caller_of = callers_by_header(limits)


def as_key(name: str) -> dict[str, str]:
    """Return the header of a request of this key."""
    return {HEADER: name}
