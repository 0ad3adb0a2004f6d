"""Events that are compared instead of parsed: the same result, and no false match."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node_agent.core.failure.loss import LossReason
from node_agent.core.openai.generation_request import ApiRoute
from node_agent.core.streams import chunk_template
from node_agent.core.streams.chunk_stream import ChunkStream
from node_agent.core.streams.factory import replay_journal
from tests.generated import examples
from tests.unit.core.streams.engine_script import ScriptedModel
from tests.unit.core.streams.test_chunk_stream import engine_events, generation, models


def chunk(text: str, token: int, **more: Any) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None, "token_ids": [token]}
    return orjson.dumps({"id": "e", "created": 1, "model": "m", "choices": [choice], **more})


CLIENT_CHUNK = b'{"id":"mine","choices":[{"index":0,"delta":{"content":"first"},"finish_reason":null}]}'


def match(event: bytes) -> tuple[bytes, bytes, bytes] | None:
    template = chunk_template.derive(chunk("first", 7), "first", 7, CLIENT_CHUNK)
    assert template is not None
    return template.matcher()(event)


def test_chunks_that_differ_only_in_text_and_id_match() -> None:
    for text in (" word", "漢", "a]b:{},c"):
        client_part = b"\ndata: " + CLIENT_CHUNK.replace(b"first", text.encode()) + b"\n\n"
        assert match(chunk_template.wrap(chunk(text, 123))) == (b"123", text.encode(), client_part)


OTHERS = {
    "an escape": chunk("a\nb", 1),
    "a quote": chunk('a"b', 1),
    "no text": chunk("", 1),
    "another field": chunk("a", 1, usage={}),
    "a text that closes itself": chunk("a", 1).replace(b'"a"', b'"a","role":"x"'),
    "half a character": chunk("x", 1).replace(b'"x"', b'"\xe6\xbc"'),
    "a line end": chunk("x", 1).replace(b'"x"', b'"a\nb"'),
    "two ids": chunk("a", 1).replace(b"[1]", b"[1,2]"),
    "a negative id": chunk("a", 1).replace(b"[1]", b"[-1]"),
    "an id beyond all": chunk("a", 1).replace(b"[1]", b"[12345678901]"),
    "an end": chunk("a", 1).replace(b"null", b'"stop"'),
    "another choice": chunk("a", 1).replace(b'"index":0', b'"index":1'),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_all_else_is_read_in_full(other: bytes) -> None:
    assert match(chunk_template.wrap(other)) is None


@pytest.mark.parametrize("part", [slice(None, -1), slice(1, None)])
def test_half_an_event_and_two_events_make_no_template(part: slice) -> None:
    event = chunk_template.wrap(chunk("a", 1))
    assert match(event[part]) is None
    assert match(event + event) is None


@pytest.mark.parametrize(
    "payload",
    [
        chunk("first", 7).replace(b'"token_ids":[7],', b"").replace(b',"token_ids":[7]', b""),
        chunk("first", 7).replace(b'"first"', b'"other"'),
        chunk("first", 7).replace(b'"finish_reason"', b'"content":"first","finish_reason"'),
    ],
    ids=["no id", "another text", "two texts"],
)
def test_an_unsuitable_payload_makes_no_template(payload: bytes) -> None:
    assert chunk_template.derive(payload, "first", 7, CLIENT_CHUNK) is None


@settings(max_examples=examples(200))
@given(models(), st.sampled_from((ApiRoute.CHAT, ApiRoute.COMPLETION)), st.integers(0, 20), st.integers(1, 400))
def test_a_client_and_a_replica_get_the_same_whether_events_are_compared_or_read(
    model: ScriptedModel, route: ApiRoute, cut: int, step: int
) -> None:
    results = []
    for derives in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            if not derives:
                patch.setattr(chunk_template, "derive", lambda *_: None)
            machine = ChunkStream(generation(route), "s")
            raw = machine.feed(b"".join(engine_events(machine, model)[:cut])) + machine.on_engine_end(LossReason.RESET)
            data = b"".join(engine_events(machine, model)) if machine.state.value == "lost" else b""
            raw += b"".join(machine.feed(data[at : at + step]) for at in range(0, len(data), step))
            restored = ChunkStream(machine.generation, "s")
            replay = replay_journal(restored, bytes(machine.journal), 0)
            results.append(
                (
                    raw,
                    replay,
                    [(history.text, history.ids, history.last_resume_point(None)) for history in restored.histories],
                )
            )
    assert results[0] == results[1]


def test_most_of_a_stream_is_compared() -> None:
    machine, read = ChunkStream(generation(ApiRoute.CHAT), "s"), 0
    model = ScriptedModel(tuple(b"w%d" % n for n in range(50)))
    with pytest.MonkeyPatch.context() as patch:
        loads = orjson.loads

        def counted(payload: bytes) -> Any:
            nonlocal read
            read += 1
            return loads(payload)

        events = engine_events(machine, model)
        patch.setattr("node_agent.core.streams.chunk_stream.orjson.loads", counted)
        for event in events:
            machine.feed(event)
    assert read <= 4, "the role, the first, the last"
