"""Streams of events go on: whatever the cuts, the client has one unbroken answer in the first engine's words."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.contract.errors import ContinuationImpossible
from node_agent.core.continuation.timeouts import MAX_FIRST_TOKEN_S
from node_agent.core.journal.epochs import Epoch, EpochRange
from node_agent.core.openai.generation_request import ApiRoute
from node_agent.core.streams.event_stream import EventStream
from node_agent.core.streams.factory import new_stream, restore_stream
from node_agent.core.streams.state import StreamState
from tests.unit.core.streams.event_contents import Seen, joined, seen
from tests.unit.core.streams.event_script import Engine, asked

KINDS = (ApiRoute.RESPONSES, ApiRoute.MESSAGES)
ABLE = ("resume",)
THOUGHTS, PIECES = ("Hm", ", ", "so"), ("An", " answer", " \u2028", "ends", ".")


def machine(kind: ApiRoute, **fields: Any) -> EventStream:
    made = new_stream(asked(kind, **fields), "s")
    assert isinstance(made, EventStream)
    return made


def tell(stream: EventStream, engine: Engine, upto: int | None = None, able: tuple[str, ...] = ABLE) -> bytes:
    """Ask the engine, and feed its first `upto` events."""
    request = stream.request(able)
    assert request.path == stream.generation.route.value
    events = engine.answer(stream.generation.route, orjson.loads(request.body))
    return b"".join(map(stream.feed, events[:upto]))


def whole(kind: ApiRoute, engine: Engine, **fields: Any) -> Seen:
    stream = machine(kind, **fields)
    out = tell(stream, engine)
    assert stream.state is StreamState.COMPLETE
    return seen(out)


@given(
    kind=st.sampled_from(KINDS),
    thoughts=st.lists(st.text(min_size=1, max_size=4), max_size=4),
    pieces=st.lists(st.text(min_size=1, max_size=4), min_size=1, max_size=6),
    cuts=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 3), st.booleans()), max_size=4),
    able=st.sampled_from([("resume",), ("forced",)]),
    logprobs=st.booleans(),
)
def test_any_cuts_leave_one_answer(
    kind: ApiRoute,
    thoughts: list[str],
    pieces: list[str],
    cuts: list[tuple[int, int, bool]],
    able: tuple[str, ...],
    logprobs: bool,
) -> None:
    """Each engine is lost after some events, now and then with its entry; the last one ends the answer."""
    first = Engine(thoughts, pieces, number=1)
    fields = {"include": ["message.output_text.logprobs"]} if logprobs and kind is ApiRoute.RESPONSES else {}
    stream, out = machine(kind, **fields), b""
    for number, (upto, batch, takes_entry) in enumerate(cuts, start=1):
        out += tell(stream, Engine(thoughts, pieces, number, batch, cached=number), upto, able)
        if stream.state is StreamState.COMPLETE:
            break
        stream.on_engine_end("reset")
        if takes_entry and stream.seq:
            again, replay = restore_stream(stream.generation, "s", bytes(stream.journal), 0)
            assert joined(seen(replay)) == joined(seen(out))
            assert isinstance(again, EventStream)
            stream = again
    if stream.state is not StreamState.COMPLETE:
        out += tell(stream, Engine(thoughts, pieces, number=9, batch=2, cached=9), able=able)
    assert stream.state is StreamState.COMPLETE
    told = seen(out)
    begins = next((n for n, (upto, *_) in enumerate(cuts, start=1) if upto), 9)
    reference = whole(kind, Engine(thoughts, pieces, begins, cached=begins), **fields)
    assert joined(told) == joined(reference)
    if kind is ApiRoute.RESPONSES:
        assert [event["sequence_number"] for _, event in told] == list(range(len(told)))
    assert first.ids == stream._ids


@pytest.mark.parametrize("kind", KINDS)
def test_every_event_has_its_id_and_its_name(kind: ApiRoute) -> None:
    stream = machine(kind)
    blocks = tell(stream, Engine(THOUGHTS, PIECES, 1)).decode().split("\n\n")[:-1]
    for number, block in enumerate(blocks, start=1):
        event_id, name, data = block.split("\n")
        assert event_id == f"id: s/{number}"
        assert orjson.loads(data.removeprefix("data: "))["type"] == name.removeprefix("event: ")


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_plug_in_says_beside_the_answer_is_not_the_clients(kind: ApiRoute) -> None:
    assert b"synkti" not in tell(machine(kind), Engine(THOUGHTS, PIECES, 1))


@pytest.mark.parametrize("kind", KINDS)
def test_until_more_than_the_opening_was_heard_the_request_is_asked_again_whole(kind: ApiRoute) -> None:
    stream = machine(kind)
    out = tell(stream, Engine(THOUGHTS, PIECES, 1), 1)
    stream.on_engine_end("reset")
    out += tell(stream, Engine(("Other",), ("words",), 2), able=())
    assert stream.method_choice is None
    assert stream.state is StreamState.COMPLETE
    assert joined(seen(out)) == joined(whole(kind, Engine(("Other",), ("words",), 1)))


def test_an_engine_without_the_plug_in_may_answer_what_another_had_only_opened() -> None:
    """On /v1/messages ids are told before the opening."""
    stream = machine(ApiRoute.MESSAGES)
    told = Engine(THOUGHTS, PIECES, 1).answer(ApiRoute.MESSAGES, orjson.loads(stream.request(ABLE).body))
    out = b"".join(map(stream.feed, (b"event: synkti-ids\ndata: [100]\n\n", told[0])))
    stream.on_engine_end("reset")
    out += tell(stream, Engine(THOUGHTS, PIECES, 2, plugged=False))
    assert stream.state is StreamState.COMPLETE
    assert joined(seen(out)) == joined(whole(ApiRoute.MESSAGES, Engine(THOUGHTS, PIECES, 1)))


@pytest.mark.parametrize("kind", KINDS)
def test_without_the_plug_in_an_answer_is_passed_on_and_its_loss_says_why_it_ends(kind: ApiRoute) -> None:
    plain = Engine(THOUGHTS, PIECES, 1, plugged=False)
    assert joined(whole(kind, plain)) == joined(whole(kind, Engine(THOUGHTS, PIECES, 1)))
    stream = machine(kind)
    tell(stream, plain, 6)
    stream.on_engine_end("reset")
    assert not stream.can_continue_on(ABLE)
    with pytest.raises(ContinuationImpossible, match="no plug-in"):
        stream.request(ABLE)


@pytest.mark.parametrize("kind", KINDS)
def test_a_node_that_can_neither_resume_nor_force_is_no_place_to_go_on(kind: ApiRoute) -> None:
    stream = machine(kind)
    tell(stream, Engine(THOUGHTS, PIECES, 1), 9)
    stream.on_engine_end("reset")
    assert not stream.can_continue_on(())
    with pytest.raises(ContinuationImpossible, match="parsers"):
        stream.request(())


@pytest.mark.parametrize("kind", KINDS)
def test_an_engine_that_was_told_to_go_does_not_end_the_answer(kind: ApiRoute) -> None:
    """It says its last events, as if all were said."""
    stream = machine(kind)
    out = tell(stream, Engine(THOUGHTS, PIECES[:2], 1, finish="abort"))
    assert stream.state is StreamState.LOST
    assert stream.loss_reason == "abort"
    assert b"completed" not in out
    assert b"message_stop" not in out


def test_a_message_without_a_stop_reason_is_no_whole_one() -> None:
    stream = machine(ApiRoute.MESSAGES)
    out = tell(stream, Engine(THOUGHTS, PIECES, 1, plugged=False, finish="abort"))
    assert (stream.state, stream.loss_reason) == (StreamState.LOST, "end-without-finish")
    assert b"message_stop" not in out


@pytest.mark.parametrize("kind", KINDS)
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
def test_an_engine_that_tells_another_answer_is_lost_before_its_first_word_is_delivered(
    kind: ApiRoute, other: Engine
) -> None:
    stream = machine(kind)
    before = tell(stream, Engine(THOUGHTS, PIECES, 1), -4)
    assert before
    stream.on_engine_end("reset")
    after = tell(stream, other, able=("forced",)) if len(other.ids) >= 7 else _told_blindly(stream, other)
    assert (after, stream.state, stream.loss_reason) == (b"", StreamState.LOST, "diverged")


def _told_blindly(stream: EventStream, engine: Engine) -> bytes:
    """From an engine that ignores the ids that it is given."""
    stream.request(ABLE)
    body = {"vllm_xargs": {"synkti_tell_ids": 1}}
    return b"".join(map(stream.feed, engine.answer(stream.generation.route, body)))


def test_where_logprobs_are_told_only_ids_are_given_whose_logprobs_the_client_has() -> None:
    """An engine has none of those that it was given."""
    stream = machine(ApiRoute.RESPONSES, include=["message.output_text.logprobs"])
    told = Engine(THOUGHTS, PIECES, 1).answer(ApiRoute.RESPONSES, orjson.loads(stream.request(ABLE).body))
    delta = next(at for at, event in enumerate(told) if b"text.delta" in event)
    out = b"".join(map(stream.feed, told[:delta]))
    assert stream.tokens == len(THOUGHTS) + 1
    stream.on_engine_end("reset")
    written = bytes(stream.journal)
    given = orjson.loads(stream.request(ABLE).body)["vllm_xargs"]["synkti_resume_ids"]
    assert given == Engine(THOUGHTS, PIECES, 1).ids[: len(THOUGHTS)]
    assert restore_stream(stream.generation, "s", written, 0)[0].request(ABLE).body == stream_asked(stream)
    out += b"".join(map(stream.feed, told))
    assert stream.state is StreamState.COMPLETE
    fields = {"include": ["message.output_text.logprobs"]}
    assert joined(seen(out)) == joined(whole(ApiRoute.RESPONSES, Engine(THOUGHTS, PIECES, 1), **fields))


def test_before_the_first_logprobs_any_number_of_engines_may_be_lost() -> None:
    """No id has led to all that the client is told of it, and yet there were ids."""
    stream = machine(ApiRoute.RESPONSES, include=["message.output_text.logprobs"])
    told = Engine((), PIECES, 1).answer(ApiRoute.RESPONSES, orjson.loads(stream.request(ABLE).body))
    delta = next(at for at, event in enumerate(told) if b"text.delta" in event)
    for _ in range(3):
        for event in told[:delta]:
            stream.feed(event)
        stream.on_engine_end("reset")
        assert orjson.loads(stream.request(ABLE).body)["vllm_xargs"]["synkti_resume_ids"] == []
        stream.on_engine_end("reset")
        stream.request(ABLE)


def stream_asked(stream: EventStream) -> bytes:
    """What the stream asks an engine now."""
    stream.on_engine_end("reset")
    return stream.request(ABLE).body


@pytest.mark.parametrize("plugged", [True, False])
def test_an_engine_may_be_silent_while_it_reads_and_longer_where_it_tells_no_ids(plugged: bool) -> None:
    stream = machine(ApiRoute.RESPONSES)
    told = Engine(THOUGHTS, PIECES, 1, plugged=plugged).answer(
        ApiRoute.RESPONSES, orjson.loads(stream.request(ABLE).body)
    )
    allowed = []
    for event in told:
        stream.feed(event)
        allowed.append(stream.token_timeout_s(2.0))
    ids = next((at for at, event in enumerate(told) if b"synkti-ids" in event), 2)
    assert allowed[:ids] == [None] * ids
    assert set(allowed[ids:]) == ({2.0} if plugged else {MAX_FIRST_TOKEN_S})
    stream = machine(ApiRoute.RESPONSES)
    tell(stream, Engine(THOUGHTS, PIECES, 1), 9)
    stream.on_engine_end("reset")
    stream.request(ABLE)
    assert stream.token_timeout_s(2.0) is None, "the next engine has to read first, too"


def test_an_answer_of_several_generations_is_passed_on_and_ends_with_its_engine() -> None:
    """vLLM makes them where it calls tools by itself."""
    stream = machine(ApiRoute.RESPONSES)
    tell(stream, Engine(THOUGHTS, PIECES, 1), 9)
    more = b'event: synkti-prompt\ndata: "another"\n\nevent: synkti-ids\ndata: [7]\n\n'
    assert stream.feed(more) == b""
    assert stream.state is StreamState.STREAMING
    stream.feed(b'event: response.x\ndata: {"type":"response.x"}\n\n')
    stream.on_engine_end("reset")
    again, _ = restore_stream(stream.generation, "s", bytes(stream.journal), 0)
    assert not again.can_continue_on(ABLE)
    with pytest.raises(ContinuationImpossible, match="called tools"):
        stream.request(ABLE)


@pytest.mark.parametrize("beside", ["synkti-ids", "synkti-prompt"])
def test_other_ids_or_another_prompt_are_another_answer(beside: str) -> None:
    stream = machine(ApiRoute.RESPONSES)
    tell(stream, Engine(THOUGHTS, PIECES, 1), 9)
    stream.on_engine_end("reset")
    stream.request(ABLE)
    assert stream.feed(f"event: {beside}\ndata: [7]\n\n".encode()) == b""
    assert stream.loss_reason == "diverged"


@pytest.mark.parametrize(
    ("data", "why"),
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
def test_what_counts_as_a_loss(data: bytes, why: str) -> None:
    stream = machine(ApiRoute.RESPONSES)
    stream.request(ABLE)
    assert stream.feed(data) == b""
    assert (stream.state, stream.loss_reason) == (StreamState.LOST, why)
    assert stream.feed(data) == stream.on_engine_end("eof") == b""
    assert stream.loss_reason == why


def test_the_clients_own_arguments_stay() -> None:
    stream = machine(ApiRoute.RESPONSES, vllm_xargs={"mine": 1, "synkti_resume_ids": [5]})
    assert orjson.loads(stream.request(ABLE).body)["vllm_xargs"] == {"mine": 1, "synkti_tell_ids": 1}


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_owner_tells_what_the_client_lacks_under_the_ids_that_it_had(kind: ApiRoute) -> None:
    stream = machine(kind)
    out = tell(stream, Engine(THOUGHTS, PIECES, 1), 12)
    runs = (EpochRange(0, Epoch(1, "i-1")), EpochRange(stream.seq, Epoch(2, "i-2")))
    again, replay = restore_stream(stream.generation, "s", bytes(stream.journal), 3, runs)
    assert out.endswith(replay)
    assert [number for number in (3, 4) if b"id: s/%d\n" % number in replay] == [4]
    assert isinstance(again, EventStream)
    more = tell(again, Engine(THOUGHTS, PIECES, 2))
    assert more.startswith(b"id: s/%d/2.i-2\n" % (stream.seq + 1))
    assert joined(seen(out + more)) == joined(whole(kind, Engine(THOUGHTS, PIECES, 1)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_journal_needs_no_engine(kind: ApiRoute) -> None:
    stream = machine(kind)
    tell(stream, Engine(THOUGHTS, PIECES, 1))
    again, _ = restore_stream(stream.generation, "s", bytes(stream.journal), stream.seq)
    states = [again.state, again.on_engine_end("resumed"), again.state]
    assert states == [StreamState.FINISHED, b"", StreamState.COMPLETE]


@pytest.mark.parametrize("written", [b"0 345  word\n", b'[0,0,[1]," word",1,null]\n', b'[0,0,[1],"",-1,{"chunk":1}]\n'])
def test_a_line_of_another_stream_is_refused(written: bytes) -> None:
    with pytest.raises(ValueError, match="another kind"):
        restore_stream(asked(ApiRoute.RESPONSES), "s", written, 0)
