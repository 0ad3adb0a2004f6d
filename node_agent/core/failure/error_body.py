"""Read the errors that engines send, as the body of an answer or as an event of a stream.

OpenAI's form and Anthropic's have the error in the member `error`; a `response.failed` event of /v1/responses has it in
its response. Anything else is not an error in an API's own form.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import orjson

ENGINE_DEAD = "EngineCore encountered an issue"
"""vLLM 0.32's error once its engine process has ended, while its API server still answers (v1/engine/exceptions)."""

_MAX_ERROR_BYTES = 1024 * 1024


class BodyKind(Enum):
    """The kind of an answer's body."""

    ERROR = "error"  # an error in OpenAI's or Anthropic's form
    NO_SUCH_MODEL = "no-such-model"
    ENGINE_DEAD = "engine-dead"
    OTHER = "other"  # plain text, HTML, nothing


@dataclass(frozen=True, slots=True)
class EngineError:
    """An error in OpenAI's or Anthropic's form."""

    message: str
    is_about_model: bool
    """Whether it says that the engine does not have the requested model."""

    status: int | None
    """The HTTP status that the error names as its code, 400 to 599; None where it names none."""

    @property
    def reports_dead_engine(self) -> bool:
        """Whether it reports that the engine behind the API server has ended."""
        return self.message.startswith(ENGINE_DEAD)


def parse_error(body: bytes) -> EngineError | None:
    """Return the error in an answer's body or in a stream's event; None where there is none, or more than 1 MiB."""
    if len(body) > _MAX_ERROR_BYTES:
        return None
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(document, dict):
        return None
    if (error := _error_of(document.get("error"))) is not None:
        return error
    failed = document.get("response")  # a response.failed event of /v1/responses
    return _error_of(failed.get("error")) if isinstance(failed, dict) else None


def _error_of(error: object) -> EngineError | None:
    if not isinstance(error, dict) or not isinstance(message := error.get("message"), str):
        return None
    code = error.get("code")
    return EngineError(
        message,
        is_about_model=error.get("param") == "model" or message.startswith("The model `"),
        status=code if isinstance(code, int) and 400 <= code < 600 else None,
    )


def classify_body(body: bytes, *, has_model: bool) -> BodyKind:
    """Return the kind of an answer's body. has_model: whether the node's engine should have the requested model."""
    error = parse_error(body)
    if error is None:
        return BodyKind.OTHER
    if error.reports_dead_engine:
        return BodyKind.ENGINE_DEAD
    return BodyKind.NO_SUCH_MODEL if has_model and error.is_about_model else BodyKind.ERROR


def reports_dead_engine(body: bytes) -> bool:
    """Return whether an answer, or an event of a stream, reports that the engine behind the API server has ended."""
    if ENGINE_DEAD.encode() not in body:
        return False
    error = parse_error(body)
    return error is not None and error.reports_dead_engine
