"""Detect how streams end: with the terminal event of the route's protocol, with an error event, or lost.

    data: [DONE]                        OpenAI's chat, completions, transcriptions
    event: response.completed           OpenAI's responses
    event: message_stop                 Anthropic's messages

A draining engine can close its connection as if the answer were complete (docs/continuation.md), and a peer reports a
lost engine with an event of its own. To the client both would look like the end of the answer.

Source of the terminal events: vLLM 0.32, `entrypoints/openai/responses`, `entrypoints/anthropic`,
`entrypoints/speech_to_text`.
"""

from __future__ import annotations

from node_agent.core.failure.loss import Loss, LossReason
from node_agent.core.failure.report import parse_loss
from node_agent.core.openai import sse
from node_agent.core.openai.generation_request import ApiRoute
from node_agent.core.streams.state import LOST_EVENT

TERMINAL_EVENTS = frozenset({b"response.completed", b"response.incomplete", b"response.failed", b"message_stop"})
_ANTHROPIC_ERROR = b'{"type":"error"'
_LOST_EVENT_START = b"event: " + LOST_EVENT


def error_event(path: str, error: bytes) -> bytes:
    """Build the last event of a stream that ends with an error.

    Anthropic's clients skip events without a name of their protocol, and would take the end of the stream for the end
    of the answer. An engine rejects unreadable requests in OpenAI's form on that route too.

    Args:
        path: the stream's route.
        error: the route's error body, on one line.

    Returns:
        The event, in the form of the route.
    """
    if path != ApiRoute.MESSAGES.value:
        return sse.message(error)
    return sse.named_event(b"error", error if error.startswith(_ANTHROPIC_ERROR) else error[:-1] + b',"type":"error"}')


def engine_error_events(path: str, error: bytes) -> bytes:
    """Build the last events of a stream that its engine ended with a request's error, as the engine sends them."""
    if path in (ApiRoute.CHAT.value, ApiRoute.COMPLETION.value):
        return sse.message(error) + sse.message(sse.DONE)
    return sse.named_event(b"error", error)


class EndOfStreamDetector:
    """Detect whether a proxied stream is complete. Pass received bytes to `feed`.

    incomplete_reason: why the stream is not complete so far, None where it is.
    """

    def __init__(self, max_event_bytes: int = sse.MAX_EVENT_BYTES) -> None:
        self.incomplete_reason: Loss | None = LossReason.EOF
        self._parser: sse.SseParser | None = sse.SseParser(max_event_bytes)

    def feed(self, data: bytes) -> bytes:
        """Return the client's part of `data`: all but a peer's event for a lost engine."""
        if self._parser is None:
            return data
        try:
            events = self._parser.feed(data)
        except sse.EventTooLarge:
            self._parser, self.incomplete_reason = None, LossReason.EVENT_TOO_LARGE
            return data
        for name, payload in events:
            if name == LOST_EVENT:
                self.incomplete_reason = parse_loss(payload.decode("ascii", "replace"))
                return data.partition(_LOST_EVENT_START)[0]
            if payload == sse.DONE or name in TERMINAL_EVENTS:
                self.incomplete_reason = None
        return data
