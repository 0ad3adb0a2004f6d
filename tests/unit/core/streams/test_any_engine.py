"""Whatever engines send, a stream ends or is lost: none causes a transition without a row in the table."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node_agent.contract.errors import ContinuationImpossible, InvalidTransition
from node_agent.core.failure.loss import LossReason
from node_agent.core.openai.generation_request import ApiRoute, read_generation
from node_agent.core.streams.factory import new_stream, restore_stream
from node_agent.core.streams.state import ENGINE_DONE, StreamState
from node_agent.core.streams.stream_machine import StreamMachine
from tests.generated import examples

METHODS = ("resume", "forced")
CAN_REQUEST = (StreamState.WAITING, StreamState.LOST, StreamState.AWAITING_NEXT_REQUEST)

ODD: st.SearchStrategy[Any] = st.sampled_from([None, 0, -1, "x", [], {}, [{}], 2**40])
IDS = st.lists(st.integers(1, 3), max_size=3)
CALLS: st.SearchStrategy[Any] = st.just([]) | st.lists(
    st.fixed_dictionaries({"index": ODD, "function": st.just({"name": "f"})}), max_size=1
)
DELTA = st.fixed_dictionaries({}, optional={"role": st.just("assistant"), "content": st.text("ab", max_size=2) | ODD,
                                            "reasoning": st.text("ab", max_size=2), "tool_calls": CALLS})  # fmt: skip
CHOICE = st.fixed_dictionaries(
    {"index": st.integers(0, 2), "delta": DELTA, "text": st.text("ab", max_size=2)},
    optional={"finish_reason": st.sampled_from([None, "stop", "length", "tool_calls", "abort"]), "token_ids": IDS | ODD,
              "logprobs": ODD, "prompt_token_ids": IDS},
)  # fmt: skip
CHUNK = st.fixed_dictionaries(
    {"id": st.just("e")},
    optional={"choices": st.lists(CHOICE, max_size=2) | ODD, "usage": ODD, "error": ODD, "prompt_token_ids": IDS},
)
NAMED = st.sampled_from([
    (b"synkti-ids", [1]), (b"synkti-ids", [2, 3]), (b"synkti-prompt", "p"), (b"synkti-finish", "stop"),
    (b"synkti-lost", "reset"), (b"response.created", {"type": "response.created"}),
    (b"response.output_text.delta", {"type": "response.output_text.delta", "delta": "a"}),
    (b"response.completed", {"type": "response.completed"}), (b"message_stop", {"type": "message_stop"}),
    (b"message_delta", {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}), (b"error", {"type": "error"}),
])  # fmt: skip


def encoded(payload: Any, name: bytes = b"") -> bytes:
    return (b"event: %b\n" % name if name else b"") + b"data: %b\n\n" % orjson.dumps(payload)


CHUNKS = CHUNK.map(encoded) | st.just(b"data: [DONE]\n\n") | st.binary(max_size=8).map(lambda data: b"data: " + data)
EVENTS = st.builds(lambda pair: encoded(pair[1], pair[0]), NAMED) | CHUNKS
STEPS = st.lists(st.tuples(st.sampled_from(["feed", "feed", "feed", "end", "request", "restore"]), EVENTS), max_size=16)
ROUTES = (ApiRoute.CHAT, ApiRoute.COMPLETION, ApiRoute.RESPONSES, ApiRoute.MESSAGES)


def stream_for(route: ApiRoute, choices: int) -> StreamMachine:
    prompt = {"messages": [{"role": "user", "content": "q"}], "prompt": "q", "input": "q"}
    body = {"model": "m", "stream": True, "n": choices, "max_tokens": 8, **prompt}
    return new_stream(read_generation(route, orjson.dumps(body)), "s")


@settings(max_examples=examples(300))
@given(st.sampled_from(ROUTES), st.integers(1, 2), STEPS)
def test_no_engine_causes_an_illegal_transition(route: ApiRoute, choices: int, steps: list[tuple[str, bytes]]) -> None:
    stream = stream_for(route, choices)
    stream.request(METHODS)
    for step, event in steps:
        if step == "end":
            stream.on_engine_end(LossReason.RESET)
        elif step == "request" and stream.state in CAN_REQUEST:
            with suppress(ContinuationImpossible):
                stream.request(METHODS)
        elif step == "restore":
            stream, _ = restore_stream(stream.generation, "s", bytes(stream.journal), stream.seq)
            stream.on_engine_end(LossReason.CLOSED)
        else:
            was_done = stream.state in ENGINE_DONE
            assert not (stream.feed(event) and was_done)


@pytest.mark.parametrize("route", ROUTES)
def test_a_request_while_an_engine_answers_is_a_bug(route: ApiRoute) -> None:
    stream = stream_for(route, 1)
    stream.request(METHODS)
    stream.feed(encoded({"choices": [{"index": 0, "delta": {"role": "assistant"}, "text": ""}]}, b"response.created"))
    assert stream.state is StreamState.STREAMING
    with pytest.raises(InvalidTransition, match="REQUESTED in state STREAMING"):
        stream.request(METHODS)
