"""The caller of a request: the client key that it carried, what this key may do, and how much of it."""

from dataclasses import dataclass
from enum import StrEnum


class Scope(StrEnum):
    """A group of routes that a key opens."""

    INFERENCE = "inference"
    FLEET = "fleet"
    METRICS = "metrics"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """How much one key may use in the whole fleet; None where it is not limited.

    Attributes:
        requests_per_minute: Requests that begin within a minute.
        tokens_per_minute: Tokens of prompts and answers within a minute.
        streams: Requests that are answered at the same time.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    streams: int | None = None


NO_LIMITS = KeyLimits()


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request.

    Attributes:
        key_id: The public part of the key; it may be logged. Empty where keys are off.
        name: The name that the operator gave to the key.
        scopes: What the key may do.
        limits: How much of it.
    """

    key_id: str
    name: str
    scopes: frozenset[Scope]
    limits: KeyLimits = NO_LIMITS


ANYBODY = Caller(key_id="", name="anybody", scopes=frozenset(Scope))
"""The caller of all requests where keys are off."""
