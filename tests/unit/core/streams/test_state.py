"""The table of a stream's states."""

from __future__ import annotations

import pytest

from node_agent.contract.errors import InvalidTransition
from node_agent.core.streams.state import ENGINE_DONE, TRANSITIONS, StreamEvent, StreamState, transition

PAIRS = [(state, event) for state in StreamState for event in StreamEvent]

LEGAL = {
    StreamState.WAITING: {
        StreamEvent.REQUESTED, StreamEvent.OUTPUT, StreamEvent.PROMPT_TEXTS_COMPLETE, StreamEvent.ENGINE_ENDED,
        StreamEvent.RESTORED_WHOLE, StreamEvent.RESTORED_PART,
    },
    StreamState.STREAMING: {
        StreamEvent.PART_ENDED, StreamEvent.LAST_FINISH_REASON, StreamEvent.TERMINAL_EVENT, StreamEvent.ENGINE_ENDED,
    },
    StreamState.AWAITING_NEXT_REQUEST: {StreamEvent.REQUESTED},
    StreamState.FINISHED: {StreamEvent.ENGINE_ENDED},
    StreamState.COMPLETE: set(),
    StreamState.LOST: {StreamEvent.REQUESTED},
}  # fmt: skip

TARGET = {
    StreamEvent.REQUESTED: StreamState.WAITING,
    StreamEvent.OUTPUT: StreamState.STREAMING,
    StreamEvent.PROMPT_TEXTS_COMPLETE: StreamState.AWAITING_NEXT_REQUEST,
    StreamEvent.PART_ENDED: StreamState.AWAITING_NEXT_REQUEST,
    StreamEvent.LAST_FINISH_REASON: StreamState.FINISHED,
    StreamEvent.TERMINAL_EVENT: StreamState.COMPLETE,
    StreamEvent.RESTORED_WHOLE: StreamState.FINISHED,
    StreamEvent.RESTORED_PART: StreamState.LOST,
}


@pytest.mark.parametrize(("state", "event"), PAIRS, ids=lambda value: value.name)
def test_each_pair_has_its_next_state_or_raises(state: StreamState, event: StreamEvent) -> None:
    if event not in LEGAL[state]:
        with pytest.raises(InvalidTransition, match=f"^{event.name} in state {state.name}$"):
            transition(state, event)
        return
    is_finished = state is StreamState.FINISHED
    target = TARGET.get(event, StreamState.COMPLETE if is_finished else StreamState.LOST)
    assert transition(state, event) is target


def test_every_state_is_reached_and_only_complete_is_final() -> None:
    reached = {StreamState.WAITING}
    for _ in StreamState:
        reached |= {following for (state, _), following in TRANSITIONS.items() if state in reached}
    assert reached == set(StreamState)
    assert set(StreamState) - {state for state, _ in TRANSITIONS} == {StreamState.COMPLETE}


def test_an_engine_is_done_where_its_end_changes_nothing() -> None:
    assert set(ENGINE_DONE) == {StreamState.AWAITING_NEXT_REQUEST, StreamState.COMPLETE, StreamState.LOST}
