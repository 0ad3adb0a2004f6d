"""Echoed prompts, several choices, and single-chunk choices: delivered once, whatever node is lost."""

from __future__ import annotations

import orjson
import pytest

from node_agent.core.failure.loss import LossReason
from node_agent.core.openai.generation_request import ApiRoute
from node_agent.core.streams.chunk_stream import ChunkStream
from node_agent.core.streams.factory import replay_journal
from node_agent.core.streams.state import StreamState
from tests.unit.core.streams.engine_script import PROMPT_TEXT, ScriptedModel
from tests.unit.core.streams.test_chunk_stream import Client, engine_events, generation, run


def test_the_texts_of_prompts_given_as_ids_are_requested_first_and_outlast_a_takeover() -> None:
    model = ScriptedModel((b"a", b"b", b"c"))
    machine, client = ChunkStream(generation(ApiRoute.COMPLETION, echo=True, n=2), "s"), Client()
    first = machine.request()
    alone = {key: value for key, value in machine.generation.body.items() if key != "n"}
    assert orjson.loads(first.body) == {**alone, "max_tokens": 0, "return_token_ids": False}
    for event in model.chunks(orjson.loads(first.body), chat=False):
        assert machine.feed(event) == b""
    assert machine.state is StreamState.AWAITING_NEXT_REQUEST
    answers = machine.request()
    assert "echo" not in orjson.loads(answers.body)
    for event in model.chunks(orjson.loads(answers.body), chat=False)[:1]:  # of the first choice alone
        client.raw += machine.feed(event)
    journal = bytes(machine.journal)
    machine = ChunkStream(generation(ApiRoute.COMPLETION, echo=True, n=2), "s")
    replay_journal(machine, journal, client.seq)
    client.raw += run(machine, model, []).raw
    assert [client.text_of(index) for index in (0, 1)] == [PROMPT_TEXT + "abc"] * 2


def test_the_texts_are_requested_again_after_a_loss_and_after_a_takeover() -> None:
    model = ScriptedModel((b"a", b"b"))
    machine = ChunkStream(generation(ApiRoute.COMPLETION, echo=True), "s")
    first = machine.request()
    machine.on_engine_end(LossReason.RESET)
    assert (machine.state, machine.engine_attempts) == (StreamState.LOST, 0)
    assert machine.request() == first
    assert machine.feed(b'data: {"choices":[{"index":1,"text":"x","finish_reason":"length"}]}\n\n') == b""
    assert machine.loss_reason == LossReason.MALFORMED_CHUNK
    journal = bytes(machine.journal)
    machine = ChunkStream(generation(ApiRoute.COMPLETION, echo=True), "s")
    replay_journal(machine, journal, 0)
    assert run(machine, model, []).text == PROMPT_TEXT + "ab"


def test_choices_of_one_chunk_that_another_engine_repeats_differently_are_a_loss() -> None:
    request = generation(ApiRoute.CHAT, n=2, use_beam_search=True)
    machine, client = ChunkStream(request, "s"), Client()
    for event in engine_events(machine, ScriptedModel((b"ab", b"c")))[:3]:  # roles, and the first choice
        client.raw += machine.feed(event)
    machine.on_engine_end(LossReason.RESET)
    for event in engine_events(machine, ScriptedModel((b"xy", b"z"))):
        assert machine.feed(event) == b""
    assert machine.loss_reason == LossReason.DIVERGED
    client.raw += run(machine, ScriptedModel((b"ab", b"c")), []).raw
    assert [client.text_of(index) for index in (0, 1)] == ["abc", "abc"]
    assert client.answer(0)["reasons"] == client.answer(1)["reasons"] == ["stop"]


@pytest.mark.parametrize("entry", [False, True], ids=["engine", "entry"])
def test_a_choice_whose_prompt_the_engine_forgot_to_tell_has_that_of_the_others(entry: bool) -> None:
    """For a client that reads slowly, vLLM merges outputs, and the prompt's ids of one choice are lost."""
    model, request = ScriptedModel((b"a", b"b", b"c")), generation(ApiRoute.COMPLETION, prompt="a text", n=2)
    machine, client = ChunkStream(request, "s"), Client()
    for event in engine_events(machine, model)[:3]:
        client.raw += machine.feed(
            event.replace(b',"prompt_token_ids":[1,2,3]', b"") if b'"index":1' in event else event
        )
    if entry:
        journal = bytes(machine.journal)
        machine = ChunkStream(request, "s")
        replay_journal(machine, journal, client.seq)
    machine.on_engine_end(LossReason.RESET)
    client.raw += run(machine, model, []).raw
    assert [client.text_of(index) for index in (0, 1)] == ["abc", "abc"]
