"""How streams end: with the last event of their route's protocol, with an error that its clients read, or lost.

    data: [DONE]                        OpenAI's chat, completions, transcriptions
    event: response.completed           OpenAI's responses
    event: message_stop                 Anthropic's messages

An engine that drains can close its connection as if all were said (docs/continuation.md), and a peer's door says in an
event of its own that its engine was lost. To the client both would look like an answer's end.

Source of the last events: vLLM 0.32, `entrypoints/openai/responses`, `entrypoints/anthropic`,
`entrypoints/speech_to_text`.
"""

from __future__ import annotations

from node_agent.core.openai import sse
from node_agent.core.openai.generation_request import ApiRoute
from node_agent.core.streams.state import LOST_EVENT

TERMINAL_EVENTS = frozenset({b"response.completed", b"response.incomplete", b"response.failed", b"message_stop"})
_ANTHROPIC_ERROR = b'{"type":"error"'
_LOST_EVENT_START = b"event: " + LOST_EVENT


def error_event(path: str, error: bytes) -> bytes:
    """The last event of a stream that ends with an error. path: its route's; error: the route's body, on one line.

    Anthropic's clients skip events without a name of theirs, and would take the stream's end for the answer's. An
    engine that refuses what it cannot read does so in OpenAI's form there, too.
    """
    if path != ApiRoute.MESSAGES.value:
        return sse.message(error)
    return sse.named_event(b"error", error if error.startswith(_ANTHROPIC_ERROR) else error[:-1] + b',"type":"error"}')


def engine_error_events(path: str, error: bytes) -> bytes:
    """The last events of a stream that its engine ended with an error of the request: as the engine sends them."""
    if path in (ApiRoute.CHAT.value, ApiRoute.COMPLETION.value):
        return sse.message(error) + sse.message(sse.DONE)
    return sse.named_event(b"error", error)


class EndOfStreamDetector:
    """Of a stream that is only passed on. Feed it what passes.

    why_lost: why the stream is not whole as it stands, None where it is.
    """

    def __init__(self, max_event_bytes: int = sse.MAX_EVENT_BYTES) -> None:
        self.incomplete_reason: str | None = "eof"
        self._parser: sse.SseParser | None = sse.SseParser(max_event_bytes)

    def feed(self, data: bytes) -> bytes:
        """What of it is the client's: all but a peer's word that its engine was lost."""
        if self._parser is None:
            return data
        try:
            events = self._parser.feed(data)
        except sse.EventTooLarge:
            self._parser, self.incomplete_reason = None, "event-too-large"
            return data
        for name, payload in events:
            if name == LOST_EVENT:
                self.incomplete_reason = payload.decode("ascii", "replace")
                return data.partition(_LOST_EVENT_START)[0]
            if payload == sse.DONE or name in TERMINAL_EVENTS:
                self.incomplete_reason = None
        return data
