"""Matches requests that fail every time because of a text in them, as a prompt can fail in an engine. Pure.

The command line configures them: `--on-text TEXT=WHAT`, repeated. Independently of these, some requests fail as they
do in vLLM: an empty grammar and a schema that refers to itself (500), an invalid regular expression and an invalid
token id (400). If the request is for a stream, these errors come inside the stream.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from local.fake_engine import model


class RequestFailure(Enum):
    """How a request fails; the values are those of the command line."""

    DIES = "dies"  # the process ends when it starts on the request, status 134, after a stream's head
    KILLED = "killed"  # the same by SIGKILL, as the kernel does when memory is short
    CORE_DIES = "core-dies"  # the engine process behind the API server ends: errors for all, /health 503, then the end
    ERROR_500 = "error-500"  # vLLM's own JSON error, as an event where a stream was asked for
    TEXT_500 = "text-500"  # plain text
    EMPTY_500 = "empty-500"
    ERROR_400 = "error-400"
    BUSY_503 = "busy-503"  # vLLM's error for a full queue
    BUSY_429 = "busy-429"


@dataclass(frozen=True)
class Trigger:
    """A request that fails. text: in the request's body, as JSON has it."""

    text: str
    failure: RequestFailure


def parse_trigger(given: str) -> Trigger:
    """Parse a command-line argument. Raises ValueError."""
    text, equals, what = given.rpartition("=")
    if not equals or not text:
        raise ValueError(f"{given!r} is not TEXT=WHAT")
    return Trigger(text, RequestFailure(what))


def matching_failure(triggers: Sequence[Trigger], raw: bytes) -> RequestFailure | None:
    """Return the failure of a request with this body, None if no trigger matches."""
    return next((trigger.failure for trigger in triggers if trigger.text.encode() in raw), None)


@dataclass(frozen=True)
class VllmError:
    """An error response of vLLM."""

    status: int
    kind: str
    message: str
    param: str | None = None


INTERNAL_ERROR = VllmError(500, "InternalServerError", "Internal server error")


def generation_error(body: Mapping[str, Any]) -> VllmError | None:
    """Return the error that vLLM finds only when it begins to generate, None if there is none."""
    grammar, schema, regex = _structured(body)
    if isinstance(grammar, str) and not grammar.partition("::=")[2].strip():
        return INTERNAL_ERROR
    if schema == {"$ref": "#"}:
        return INTERNAL_ERROR
    if isinstance(regex, str) and not _compiles(regex):
        return VllmError(400, "BadRequestError", f"Grammar error: invalid regex {regex!r}")
    bias = body.get("logit_bias") or {}
    outside = [int(token) for token in bias if str(token).isdigit() and int(token) >= model.VOCABULARY_SIZE]
    if outside:
        message = f"token_id(s) {outside} in logit_bias contain out-of-vocab token ids."
        return VllmError(400, "BadRequestError", message, "logit_bias")
    return None


def _structured(body: Mapping[str, Any]) -> tuple[object, object, object]:
    """Return the grammar, the schema and the regular expression that constrain the output."""
    asked = body.get("structured_outputs")
    asked = asked if isinstance(asked, dict) else {}
    wrapped = body.get("response_format")
    wrapped = wrapped.get("json_schema") if isinstance(wrapped, dict) else None
    schema = wrapped.get("schema") if isinstance(wrapped, dict) else asked.get("json")
    return asked.get("grammar"), schema, asked.get("regex")


def _compiles(regex: str) -> bool:
    try:
        re.compile(regex)
    except re.error:
        return False
    return True
