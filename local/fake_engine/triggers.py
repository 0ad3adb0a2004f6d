"""Requests that a stand-in fails at because of a text in them, as engines do because of a prompt: every time. Pure.

Told on the command line, `--on-text TEXT=WHAT`, as often as wanted. Without any, some requests fail as they were seen
to fail in vLLM: an empty grammar and a schema that refers to itself (500), a regular expression and a token id that are
none (400). Where a stream was asked for, these errors come inside of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from local.fake_engine import model


class RequestFailure(Enum):
    """What becomes of a request."""

    DIES = "dies"  # the process ends as it begins to work on it, status 134, behind a stream's head
    KILLED = "killed"  # the same by SIGKILL, as the kernel does for want of memory
    CORE_DIES = "core-dies"  # the engine process behind the API server ends: errors for all, /health 503, then the end
    ERROR_500 = "error-500"  # vLLM's own JSON error, as an event where a stream was asked for
    TEXT_500 = "text-500"  # plain text
    EMPTY_500 = "empty-500"
    ERROR_400 = "error-400"
    BUSY_503 = "busy-503"  # vLLM's word for a full queue
    BUSY_429 = "busy-429"


@dataclass(frozen=True)
class Trigger:
    """text: in the request's body, as JSON has it."""

    text: str
    failure: RequestFailure


def parse_trigger(given: str) -> Trigger:
    """Of a command line. Raises ValueError."""
    text, equals, what = given.rpartition("=")
    if not equals or not text:
        raise ValueError(f"{given!r} is not TEXT=WHAT")
    return Trigger(text, RequestFailure(what))


def matching_failure(triggers: Sequence[Trigger], raw: bytes) -> RequestFailure | None:
    """What becomes of a request with this body, where one of them fits."""
    return next((trigger.failure for trigger in triggers if trigger.text.encode() in raw), None)


@dataclass(frozen=True)
class VllmError:
    """An error of vLLM's."""

    status: int
    kind: str
    message: str
    param: str | None = None


INTERNAL_ERROR = VllmError(500, "InternalServerError", "Internal server error")


def generation_error(body: Mapping[str, Any]) -> VllmError | None:
    """What vLLM says of a request that it finds out about only when it begins to generate."""
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
    """The grammar, the schema and the regular expression that a request wants kept."""
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
