"""The one tree of errors, and the bodies in which clients see them: OpenAI's and, on its own routes, Anthropic's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class SynktiError(Exception):
    """A failure that this system expects."""


class ConfigurationError(SynktiError):
    """The configuration is wrong. All faults are reported together, so that they can be fixed in one go."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = tuple(faults)


class TransientError(SynktiError):
    """Another try may succeed, after `retry_after_s`."""

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class StoreUnavailable(TransientError):
    """EC2, DynamoDB, S3 or Secrets Manager did not perform a request."""


class MetadataUnavailable(TransientError):
    """IMDS did not answer."""


class PeerRefused(TransientError):
    """A peer answered, but not with what was requested."""


class PermanentError(SynktiError):
    """Another try would end the same."""


class RequestRejected(PermanentError):
    """The client's request cannot be served as it is."""

    def __init__(self, status: int, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param


class LimitExceeded(TransientError):
    """A key has used up one of its limits.

    kind: `requests`, `tokens` or `streams`; is_final: another try would end the same.
    """

    def __init__(self, kind: str, message: str, retry_after_s: float, *, is_final: bool = False) -> None:
        super().__init__(message, retry_after_s)
        self.kind = kind
        self.is_final = is_final


class ModelMissing(PermanentError):
    """The models bucket has no such model, or not all of it."""


class ModelDamaged(PermanentError):
    """A model's files are not what its manifest says."""


class ContinuationImpossible(PermanentError):
    """No continuation method reproduces this request's state exactly."""


class NoReadyPeer(TransientError):
    """No node of the fleet can take the request now."""


class FleetFull(TransientError):
    """Every node that could take the request is overloaded."""


class StaleEpoch(SynktiError):
    """A newer owner exists: stop."""


class InvalidTransition(AssertionError):
    """A bug in a state machine: its message holds the recent events."""


MAX_MESSAGE_CHARACTERS = 1_000
"""Of an error's message: it may quote the client, who may have sent a model's name of a megabyte."""

_TYPES = {400: "invalid_request_error", 404: "not_found_error", 413: "invalid_request_error", 429: "rate_limit_error"}


def openai_error(
    status: int, code: str, message: str, param: str | None = None, kind: str | None = None
) -> dict[str, Any]:
    """Build OpenAI's error body: {"error": {"message", "type", "param", "code"}}. kind: its type, if not the usual."""
    if kind is None:
        kind = _TYPES.get(status, "invalid_request_error" if 400 <= status < 500 else "server_error")
    return {"error": {"message": _clipped(message), "type": kind, "param": param, "code": code}}


_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def anthropic_error(status: int, code: str, message: str, param: str | None = None) -> dict[str, Any]:
    """Build Anthropic's body: {"type": "error", "error": {"type", "message"}}; its clients ignore other fields."""
    kind = _ANTHROPIC_TYPES.get(status, "invalid_request_error" if 400 <= status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": _clipped(message), "param": param, "code": code}}


ANTHROPIC_ROUTES = "/v1/messages"
"""What the paths of Anthropic's routes begin with."""


def route_error(
    path: str, status: int, code: str, message: str, param: str | None = None, kind: str | None = None
) -> dict[str, Any]:
    """Build an error's body in Anthropic's form on its routes, in OpenAI's on all others. path: of the route."""
    if path.startswith(ANTHROPIC_ROUTES):
        return anthropic_error(status, code, message, param)
    return openai_error(status, code, message, param, kind)


def _clipped(message: str) -> str:
    message = message.encode("utf-8", "replace").decode()  # half a surrogate pair is no JSON
    if len(message) <= MAX_MESSAGE_CHARACTERS:
        return message
    half = MAX_MESSAGE_CHARACTERS // 2 - 2
    return f"{message[:half]} ... {message[-half:]}"
