"""Answers without a limit: a reprompt requests them in segments, and no segment's end counts as the answer's."""

from __future__ import annotations

import orjson

from node_agent.core.failure.loss import LossReason
from node_agent.core.openai.generation_request import ApiRoute
from node_agent.core.streams.chunk_stream import ChunkStream
from node_agent.core.streams.state import StreamState
from tests.unit.core.streams.engine_script import ScriptedModel
from tests.unit.core.streams.test_chunk_stream import Client, Cut, engine_events, generation, run, uninterrupted


def test_an_answer_without_a_limit_continues_in_doubling_segments_to_its_end() -> None:
    """A completion without a limit gets 16 tokens, so that a chat continued there would only look complete."""
    model = ScriptedModel(tuple(b"%d " % number for number in range(100)))
    machine, client, limits = ChunkStream(generation(ApiRoute.CHAT, max_tokens=None), "s"), Client(), []
    for event in engine_events(machine, model)[:6]:
        client.raw += machine.feed(event)
    machine.on_engine_end(LossReason.RESET)
    while machine.state is not StreamState.COMPLETE:
        request = machine.request()
        limits.append(orjson.loads(request.body)["max_tokens"])
        for event in model.chunks(orjson.loads(request.body), chat=False):
            client.raw += machine.feed(event)
    assert limits == [16, 23, 45, 89]
    assert client.text == model.text
    assert client.answer(0)["reasons"] == ["stop"]
    assert machine.engine_attempts == 5


def test_min_tokens_never_exceed_the_length_of_a_segment() -> None:
    """vLLM refuses a `min_tokens` beyond `max_tokens`."""
    machine = ChunkStream(generation(ApiRoute.CHAT, max_tokens=None, min_tokens=40), "s")
    model = ScriptedModel((b"a", b"b", b"c", b"d"))
    for event in engine_events(machine, model)[:3]:
        machine.feed(event)
    machine.on_engine_end(LossReason.RESET)
    body = orjson.loads(machine.request().body)
    assert (body["max_tokens"], body["min_tokens"]) == (16, 16)


def test_text_that_may_begin_a_stop_string_is_held_back_at_the_end_of_a_segment() -> None:
    model = ScriptedModel((b"ab ", b"cd ", b"ef ", b"gh ", b"ST", b"OP", b" more"))
    request = generation(ApiRoute.CHAT, max_tokens=None, stop=["STOP"])
    client = run(ChunkStream(request, "s"), model, [Cut(2)])
    assert client.answer(0) == uninterrupted(model, request).answer(0)
    assert client.text == "ab cd ef gh "


def test_a_segment_that_ends_inside_a_character_delivers_nothing_of_it() -> None:
    """At a limit an engine sends U+FFFD for a partial character."""
    pieces = [bytes([byte]) for byte in "\U0001f680".encode()] * 30
    for before in range(4):
        model = ScriptedModel((*([b"x"] * before), *pieces))
        request = generation(ApiRoute.CHAT, max_tokens=None)
        client = run(ChunkStream(request, "s"), model, [Cut(3 + before)])
        assert client.text == model.text


def test_a_segment_without_a_point_to_continue_from_is_a_loss_and_not_repeated() -> None:
    machine = ChunkStream(generation(ApiRoute.CHAT, max_tokens=None), "s")
    for event in engine_events(machine, ScriptedModel(tuple(b"%d " % number for number in range(9))))[:4]:
        machine.feed(event)
    machine.on_engine_end(LossReason.RESET)
    limit = orjson.loads(machine.request().body)["max_tokens"]
    merged = {"index": 0, "text": "3 4 ", "token_ids": list(range(limit)), "finish_reason": "length"}
    assert machine.feed(b"data: %b\n\n" % orjson.dumps({"choices": [merged]})) == b""
    assert (machine.state, machine.loss_reason) == (StreamState.LOST, LossReason.PIECE_WITHOUT_MARK)
