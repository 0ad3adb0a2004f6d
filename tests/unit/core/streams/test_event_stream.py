"""Streams of events continue: after any losses the client has one answer with the first engine's random ids."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.contract.errors import ContinuationImpossible
from node_agent.core.continuation.timeouts import MAX_FIRST_TOKEN_S
from node_agent.core.failure.loss import LossReason
from node_agent.core.journal.epochs import Epoch, EpochRange
from node_agent.core.openai.generation_request import ApiRoute
from node_agent.core.streams.event_stream import EventStream
from node_agent.core.streams.factory import new_stream, restore_stream
from node_agent.core.streams.state import StreamState
from tests.unit.core.streams.event_contents import ParsedEvents, normalized, parse_events
from tests.unit.core.streams.event_script import Engine, generation_request

ROUTES = (ApiRoute.RESPONSES, ApiRoute.MESSAGES)
METHODS = ("resume",)
THOUGHTS, PIECES = ("Hm", ", ", "so"), ("An", " answer", " \u2028", "ends", ".")


def machine(route: ApiRoute, **fields: Any) -> EventStream:
    stream = new_stream(generation_request(route, **fields), "s")
    assert isinstance(stream, EventStream)
    return stream


def feed_answer(
    stream: EventStream, engine: Engine, upto: int | None = None, methods: tuple[str, ...] = METHODS
) -> bytes:
    """Send the stream's request to the engine, and feed its first `upto` events."""
    request = stream.request(methods)
    assert request.path == stream.generation.route.value
    events = engine.answer(stream.generation.route, orjson.loads(request.body))
    return b"".join(map(stream.feed, events[:upto]))


def complete_answer(route: ApiRoute, engine: Engine, **fields: Any) -> ParsedEvents:
    stream = machine(route, **fields)
    out = feed_answer(stream, engine)
    assert stream.state is StreamState.COMPLETE
    return parse_events(out)


@given(
    route=st.sampled_from(ROUTES),
    thoughts=st.lists(st.text(min_size=1, max_size=4), max_size=4),
    pieces=st.lists(st.text(min_size=1, max_size=4), min_size=1, max_size=6),
    cuts=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 3), st.booleans()), max_size=4),
    methods=st.sampled_from([("resume",), ("forced",)]),
    logprobs=st.booleans(),
)
def test_any_cuts_leave_one_answer(
    route: ApiRoute,
    thoughts: list[str],
    pieces: list[str],
    cuts: list[tuple[int, int, bool]],
    methods: tuple[str, ...],
    logprobs: bool,
) -> None:
    """Each engine is lost after some events, sometimes with its entry; the last one ends the answer."""
    first = Engine(thoughts, pieces, number=1)
    fields = {"include": ["message.output_text.logprobs"]} if logprobs and route is ApiRoute.RESPONSES else {}
    stream, out = machine(route, **fields), b""
    for number, (upto, batch, loses_entry) in enumerate(cuts, start=1):
        out += feed_answer(stream, Engine(thoughts, pieces, number, batch, cached=number), upto, methods)
        if stream.state is StreamState.COMPLETE:
            break
        stream.on_engine_end(LossReason.RESET)
        if loses_entry and stream.seq:
            restored, replay = restore_stream(stream.generation, "s", bytes(stream.journal), 0)
            assert normalized(parse_events(replay)) == normalized(parse_events(out))
            assert isinstance(restored, EventStream)
            stream = restored
    if stream.state is not StreamState.COMPLETE:
        out += feed_answer(stream, Engine(thoughts, pieces, number=9, batch=2, cached=9), methods=methods)
    assert stream.state is StreamState.COMPLETE
    delivered = parse_events(out)
    begins = next((n for n, (upto, *_) in enumerate(cuts, start=1) if upto), 9)
    reference = complete_answer(route, Engine(thoughts, pieces, begins, cached=begins), **fields)
    assert normalized(delivered) == normalized(reference)
    if route is ApiRoute.RESPONSES:
        assert [event["sequence_number"] for _, event in delivered] == list(range(len(delivered)))
    assert first.ids == stream._ids


@pytest.mark.parametrize("route", ROUTES)
def test_every_event_has_its_id_and_its_name(route: ApiRoute) -> None:
    stream = machine(route)
    blocks = feed_answer(stream, Engine(THOUGHTS, PIECES, 1)).decode().split("\n\n")[:-1]
    for number, block in enumerate(blocks, start=1):
        event_id, name, data = block.split("\n")
        assert event_id == f"id: s/{number}"
        assert orjson.loads(data.removeprefix("data: "))["type"] == name.removeprefix("event: ")


@pytest.mark.parametrize("route", ROUTES)
def test_the_plugins_own_events_are_not_sent_to_the_client(route: ApiRoute) -> None:
    assert b"synkti" not in feed_answer(machine(route), Engine(THOUGHTS, PIECES, 1))


@pytest.mark.parametrize("route", ROUTES)
def test_a_stream_that_delivered_only_its_opening_is_requested_anew(route: ApiRoute) -> None:
    stream = machine(route)
    out = feed_answer(stream, Engine(THOUGHTS, PIECES, 1), 1)
    stream.on_engine_end(LossReason.RESET)
    out += feed_answer(stream, Engine(("Other",), ("words",), 2), methods=())
    assert stream.method_choice is None
    assert stream.state is StreamState.COMPLETE
    assert normalized(parse_events(out)) == normalized(complete_answer(route, Engine(("Other",), ("words",), 1)))


def test_an_engine_without_the_plugin_may_answer_a_stream_that_was_only_opened() -> None:
    """On /v1/messages ids come before the opening events."""
    stream = machine(ApiRoute.MESSAGES)
    events = Engine(THOUGHTS, PIECES, 1).answer(ApiRoute.MESSAGES, orjson.loads(stream.request(METHODS).body))
    out = b"".join(map(stream.feed, (b"event: synkti-ids\ndata: [100]\n\n", events[0])))
    stream.on_engine_end(LossReason.RESET)
    out += feed_answer(stream, Engine(THOUGHTS, PIECES, 2, plugged=False))
    assert stream.state is StreamState.COMPLETE
    assert normalized(parse_events(out)) == normalized(complete_answer(ApiRoute.MESSAGES, Engine(THOUGHTS, PIECES, 1)))


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("plugged", [True, False])
def test_tokens_of_prompt_and_answer_are_known_at_the_end_and_to_the_next_owner(route: ApiRoute, plugged: bool) -> None:
    stream, engine = machine(route), Engine(THOUGHTS, PIECES, 1, plugged=plugged, cached=7)
    assert (stream.prompt_tokens, stream.tokens) == (0, 0)
    feed_answer(stream, engine)
    assert (stream.prompt_tokens, stream.tokens) == (30, len(engine.ids))
    restored, _ = restore_stream(stream.generation, "s", bytes(stream.journal), 0)
    assert (restored.prompt_tokens, restored.tokens) == (30, len(engine.ids))


@pytest.mark.parametrize("route", ROUTES)
def test_without_the_plugin_an_answer_is_passed_on_and_its_loss_is_final(route: ApiRoute) -> None:
    plain = Engine(THOUGHTS, PIECES, 1, plugged=False)
    assert normalized(complete_answer(route, plain)) == normalized(complete_answer(route, Engine(THOUGHTS, PIECES, 1)))
    stream = machine(route)
    feed_answer(stream, plain, 6)
    stream.on_engine_end(LossReason.RESET)
    assert not stream.can_continue_on(METHODS)
    with pytest.raises(ContinuationImpossible, match="no plug-in"):
        stream.request(METHODS)


@pytest.mark.parametrize("route", ROUTES)
def test_a_node_that_can_neither_resume_nor_force_cannot_continue(route: ApiRoute) -> None:
    stream = machine(route)
    feed_answer(stream, Engine(THOUGHTS, PIECES, 1), 9)
    stream.on_engine_end(LossReason.RESET)
    assert not stream.can_continue_on(())
    with pytest.raises(ContinuationImpossible, match="parsers"):
        stream.request(())


@pytest.mark.parametrize("route", ROUTES)
def test_an_engine_that_is_shut_down_does_not_end_the_answer(route: ApiRoute) -> None:
    """It sends its last events, as if the answer were complete."""
    stream = machine(route)
    out = feed_answer(stream, Engine(THOUGHTS, PIECES[:2], 1, finish="abort"))
    assert stream.state is StreamState.LOST
    assert stream.loss_reason == LossReason.ABORT
    assert b"completed" not in out
    assert b"message_stop" not in out


def test_a_message_without_a_stop_reason_is_not_complete() -> None:
    stream = machine(ApiRoute.MESSAGES)
    out = feed_answer(stream, Engine(THOUGHTS, PIECES, 1, plugged=False, finish="abort"))
    assert (stream.state, stream.loss_reason) == (StreamState.LOST, LossReason.END_WITHOUT_FINISH)
    assert b"message_stop" not in out


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    "other",
    [
        Engine(THOUGHTS, ("An", " answer", " to", "ends", "."), 2),
        Engine(THOUGHTS, PIECES[:3], 2),
        Engine(("Hm", ", ", "so", "o"), PIECES[1:], 2),
        Engine(("Hm",), ("zzz", "y", *PIECES), 2),
    ],
    ids=["other words", "a shorter answer", "longer thoughts", "shorter thoughts"],
)
def test_an_engine_with_another_answer_is_lost_before_any_of_it_is_delivered(route: ApiRoute, other: Engine) -> None:
    stream = machine(route)
    before = feed_answer(stream, Engine(THOUGHTS, PIECES, 1), -4)
    assert before
    stream.on_engine_end(LossReason.RESET)
    after = (
        feed_answer(stream, other, methods=("forced",)) if len(other.ids) >= 7 else _feed_other_answer(stream, other)
    )
    assert (after, stream.state, stream.loss_reason) == (b"", StreamState.LOST, LossReason.DIVERGED)


def _feed_other_answer(stream: EventStream, engine: Engine) -> bytes:
    """Feed the answer of an engine that ignores the ids that it is given."""
    stream.request(METHODS)
    body = {"vllm_xargs": {"synkti_tell_ids": 1}}
    return b"".join(map(stream.feed, engine.answer(stream.generation.route, body)))


def test_with_logprobs_only_ids_whose_logprobs_the_client_has_are_resumed() -> None:
    """An engine sends no logprobs of ids that were given to it."""
    stream = machine(ApiRoute.RESPONSES, include=["message.output_text.logprobs"])
    events = Engine(THOUGHTS, PIECES, 1).answer(ApiRoute.RESPONSES, orjson.loads(stream.request(METHODS).body))
    delta = next(at for at, event in enumerate(events) if b"text.delta" in event)
    out = b"".join(map(stream.feed, events[:delta]))
    assert stream.tokens == len(THOUGHTS) + 1
    stream.on_engine_end(LossReason.RESET)
    journal = bytes(stream.journal)
    given = orjson.loads(stream.request(METHODS).body)["vllm_xargs"]["synkti_resume_ids"]
    assert given == Engine(THOUGHTS, PIECES, 1).ids[: len(THOUGHTS)]
    assert restore_stream(stream.generation, "s", journal, 0)[0].request(METHODS).body == next_request_body(stream)
    out += b"".join(map(stream.feed, events))
    assert stream.state is StreamState.COMPLETE
    fields = {"include": ["message.output_text.logprobs"]}
    assert normalized(parse_events(out)) == normalized(
        complete_answer(ApiRoute.RESPONSES, Engine(THOUGHTS, PIECES, 1), **fields)
    )


def test_before_the_first_logprobs_any_number_of_engines_may_be_lost() -> None:
    """The client does not have the full output of any id, although there were ids."""
    stream = machine(ApiRoute.RESPONSES, include=["message.output_text.logprobs"])
    events = Engine((), PIECES, 1).answer(ApiRoute.RESPONSES, orjson.loads(stream.request(METHODS).body))
    delta = next(at for at, event in enumerate(events) if b"text.delta" in event)
    for _ in range(3):
        for event in events[:delta]:
            stream.feed(event)
        stream.on_engine_end(LossReason.RESET)
        assert orjson.loads(stream.request(METHODS).body)["vllm_xargs"]["synkti_resume_ids"] == []
        stream.on_engine_end(LossReason.RESET)
        stream.request(METHODS)


def next_request_body(stream: EventStream) -> bytes:
    """Lose the current engine; return the body of the next request."""
    stream.on_engine_end(LossReason.RESET)
    return stream.request(METHODS).body


@pytest.mark.parametrize("plugged", [True, False])
def test_a_prefill_has_no_token_timeout_and_an_engine_without_ids_a_longer_one(plugged: bool) -> None:
    stream = machine(ApiRoute.RESPONSES)
    events = Engine(THOUGHTS, PIECES, 1, plugged=plugged).answer(
        ApiRoute.RESPONSES, orjson.loads(stream.request(METHODS).body)
    )
    allowed = []
    for event in events:
        stream.feed(event)
        allowed.append(stream.token_timeout_s(2.0))
    ids = next((at for at, event in enumerate(events) if b"synkti-ids" in event), 2)
    assert allowed[:ids] == [None] * ids
    assert set(allowed[ids:]) == ({2.0} if plugged else {MAX_FIRST_TOKEN_S})
    stream = machine(ApiRoute.RESPONSES)
    feed_answer(stream, Engine(THOUGHTS, PIECES, 1), 9)
    stream.on_engine_end(LossReason.RESET)
    stream.request(METHODS)
    assert stream.token_timeout_s(2.0) is None, "the next engine has to prefill first, too"


def test_an_answer_of_several_generations_is_passed_on_and_ends_with_its_engine() -> None:
    """vLLM does so where it calls tools by itself."""
    stream = machine(ApiRoute.RESPONSES)
    feed_answer(stream, Engine(THOUGHTS, PIECES, 1), 9)
    more = b'event: synkti-prompt\ndata: "another"\n\nevent: synkti-ids\ndata: [7]\n\n'
    assert stream.feed(more) == b""
    assert stream.state is StreamState.STREAMING
    stream.feed(b'event: response.x\ndata: {"type":"response.x"}\n\n')
    stream.on_engine_end(LossReason.RESET)
    restored, _ = restore_stream(stream.generation, "s", bytes(stream.journal), 0)
    assert not restored.can_continue_on(METHODS)
    with pytest.raises(ContinuationImpossible, match="called tools"):
        stream.request(METHODS)


@pytest.mark.parametrize("event_name", ["synkti-ids", "synkti-prompt"])
def test_other_ids_or_another_prompt_are_another_answer(event_name: str) -> None:
    stream = machine(ApiRoute.RESPONSES)
    feed_answer(stream, Engine(THOUGHTS, PIECES, 1), 9)
    stream.on_engine_end(LossReason.RESET)
    stream.request(METHODS)
    assert stream.feed(f"event: {event_name}\ndata: [7]\n\n".encode()) == b""
    assert stream.loss_reason == LossReason.DIVERGED


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"event: synkti-lost\ndata: handoff\n\n", "handoff"),
        (b'event: error\ndata: {"type":"error","error":{"message":"no"}}\n\n', "error-chunk"),
        (b'event: response.failed\ndata: {"type":"response.failed"}\n\n', "error-chunk"),
        (b'data: {"error":{"message":"no"}}\n\n', "error-chunk"),
        (b"data: [DONE]\n\n", "done-without-finish"),
        (b"data: {\n\n", "malformed-chunk"),
        (b"data: [1]\n\n", "malformed-chunk"),
        (b"event: synkti-ids\ndata: 7\n\n", "malformed-chunk"),
        (b'event: message_delta\ndata: {"type":"message_delta","delta":1}\n\n', "malformed-chunk"),
        (b'event: message_delta\ndata: {"type":"message_delta"}\n\n', "malformed-chunk"),
    ],
)
def test_each_invalid_or_final_event_is_a_loss_with_its_reason(data: bytes, reason: str) -> None:
    stream = machine(ApiRoute.RESPONSES)
    stream.request(METHODS)
    assert stream.feed(data) == b""
    assert (stream.state, str(stream.loss_reason)) == (StreamState.LOST, reason)
    assert stream.feed(data) == stream.on_engine_end(LossReason.EOF) == b""
    assert str(stream.loss_reason) == reason


def test_the_clients_own_arguments_are_kept() -> None:
    stream = machine(ApiRoute.RESPONSES, vllm_xargs={"mine": 1, "synkti_resume_ids": [5]})
    assert orjson.loads(stream.request(METHODS).body)["vllm_xargs"] == {"mine": 1, "synkti_tell_ids": 1}


@pytest.mark.parametrize("route", ROUTES)
def test_a_new_owner_replays_missing_events_under_their_ids(route: ApiRoute) -> None:
    stream = machine(route)
    out = feed_answer(stream, Engine(THOUGHTS, PIECES, 1), 12)
    ranges = (EpochRange(0, Epoch(1, "i-1")), EpochRange(stream.seq, Epoch(2, "i-2")))
    restored, replay = restore_stream(stream.generation, "s", bytes(stream.journal), 3, ranges)
    assert out.endswith(replay)
    assert [number for number in (3, 4) if b"id: s/%d\n" % number in replay] == [4]
    assert isinstance(restored, EventStream)
    more = feed_answer(restored, Engine(THOUGHTS, PIECES, 2))
    assert more.startswith(b"id: s/%d/2.i-2\n" % (stream.seq + 1))
    assert normalized(parse_events(out + more)) == normalized(complete_answer(route, Engine(THOUGHTS, PIECES, 1)))


@pytest.mark.parametrize("route", ROUTES)
def test_a_complete_journal_needs_no_engine(route: ApiRoute) -> None:
    stream = machine(route)
    feed_answer(stream, Engine(THOUGHTS, PIECES, 1))
    restored, _ = restore_stream(stream.generation, "s", bytes(stream.journal), stream.seq)
    states = [restored.state, restored.on_engine_end(LossReason.ENTRY_LOST), restored.state]
    assert states == [StreamState.FINISHED, b"", StreamState.COMPLETE]


@pytest.mark.parametrize("journal", [b"0 345  word\n", b'[0,0,[1]," word",1,null]\n', b'[0,0,[1],"",-1,{"chunk":1}]\n'])
def test_a_line_of_another_stream_is_refused(journal: bytes) -> None:
    with pytest.raises(ValueError, match="another kind"):
        restore_stream(generation_request(ApiRoute.RESPONSES), "s", journal, 0)
