"""Define the states of a client's stream and the one table of its transitions, for both kinds of stream.

`docs/continuation.md` shows the table as a diagram (`python -m checks.stream_states`). Not every stream takes every
transition: only a stream of chunks waits for the next request of the same answer or is finished before it is complete,
only a stream of events has a terminal event.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType

from node_agent.contract.errors import InvalidTransition

LOST_EVENT = b"synkti-lost"
"""An engine node returns a stream to its entry with this event; its data is a line of `core/failure/report`."""


class StreamState(Enum):
    """The state of a stream."""

    WAITING = "waiting"
    """No output of the current engine yet."""
    STREAMING = "streaming"
    """The current engine has begun to answer."""
    AWAITING_NEXT_REQUEST = "awaiting-next-request"
    """The current engine did its part; the answer needs another request, which the same engine may serve."""
    FINISHED = "finished"
    """The client has the whole answer, but not the end of the stream."""
    COMPLETE = "complete"
    """The client has everything."""
    LOST = "lost"
    """The current engine ended before the answer did."""


class StreamEvent(Enum):
    """What changes the state of a stream; the values are the labels of the diagram."""

    REQUESTED = "next engine requested"
    OUTPUT = "first output"
    PROMPT_TEXTS_COMPLETE = "texts of the prompts complete"
    PART_ENDED = "end of one of several choices, or of a segment"
    LAST_FINISH_REASON = "last finish_reason"
    TERMINAL_EVENT = "terminal event"
    ENGINE_ENDED = "engine ended"
    RESTORED_WHOLE = "restored with the whole answer"
    RESTORED_PART = "restored with a part of it"


TRANSITIONS: Mapping[tuple[StreamState, StreamEvent], StreamState] = MappingProxyType(
    {
        (StreamState.WAITING, StreamEvent.REQUESTED): StreamState.WAITING,
        (StreamState.WAITING, StreamEvent.OUTPUT): StreamState.STREAMING,
        (StreamState.WAITING, StreamEvent.PROMPT_TEXTS_COMPLETE): StreamState.AWAITING_NEXT_REQUEST,
        (StreamState.WAITING, StreamEvent.ENGINE_ENDED): StreamState.LOST,
        (StreamState.WAITING, StreamEvent.RESTORED_WHOLE): StreamState.FINISHED,
        (StreamState.WAITING, StreamEvent.RESTORED_PART): StreamState.LOST,
        (StreamState.STREAMING, StreamEvent.PART_ENDED): StreamState.AWAITING_NEXT_REQUEST,
        (StreamState.STREAMING, StreamEvent.LAST_FINISH_REASON): StreamState.FINISHED,
        (StreamState.STREAMING, StreamEvent.TERMINAL_EVENT): StreamState.COMPLETE,
        (StreamState.STREAMING, StreamEvent.ENGINE_ENDED): StreamState.LOST,
        (StreamState.AWAITING_NEXT_REQUEST, StreamEvent.REQUESTED): StreamState.WAITING,
        (StreamState.FINISHED, StreamEvent.ENGINE_ENDED): StreamState.COMPLETE,
        (StreamState.LOST, StreamEvent.REQUESTED): StreamState.WAITING,
    }
)
"""The next state for each state and event; every other pair is a bug."""

ENGINE_DONE = tuple(state for state in StreamState if (state, StreamEvent.ENGINE_ENDED) not in TRANSITIONS)
"""The states in which the current engine's output is ignored, and its end changes nothing."""


def transition(state: StreamState, event: StreamEvent) -> StreamState:
    """Return the state after `event`. Raises InvalidTransition where `TRANSITIONS` has no row for it."""
    following = TRANSITIONS.get((state, event))
    if following is None:
        raise InvalidTransition(f"{event.name} in state {state.name}")
    return following
