"""Runs one stream at a real engine, cuts it at a chosen event, and continues it with the entry's own state machine."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import orjson

from node_agent.core.failure.loss import LossReason
from node_agent.core.openai import prompt_echo
from node_agent.core.openai.generation_request import ApiRoute, GenerationRequest, read_generation
from node_agent.core.openai.sse import SseParser
from node_agent.core.streams.chunk_stream import ChunkStream
from node_agent.core.streams.factory import replay_journal
from node_agent.core.streams.state import StreamState
from node_agent.core.streams.stream_machine import EngineRequest
from tests.contract.rows import Row
from tests.engines import MODEL, Engine

TOKENS = 72
VARIANTS = ("", " Please.", " Once more!", " Now?", " (In a few words.)", " 雨", " And then?", " ...")


def generation_of(row: Row, variant: str = "", **more: Any) -> GenerationRequest:
    """Return the generation request of a row. variant: appended to its prompt."""
    prompt_fields: dict[str, Any] = (
        {"messages": [{"role": "user", "content": row.prompt + variant}]}
        if row.kind is ApiRoute.CHAT
        else {"prompt": "It was a dark night" + variant}
    )
    body = {
        "model": MODEL,
        "stream": True,
        "max_tokens": TOKENS,
        "return_token_ids": True,
        **prompt_fields,
        **row.fields,
    }
    return read_generation(row.kind, orjson.dumps({**body, **more}))


@dataclass
class ChoiceOutput:
    """All output of one choice, however it was split into events. Tool call ids are random, and not compared."""

    text: str = ""
    reasoning: str = ""
    calls: dict[int, list[str]] = field(default_factory=dict)
    call_ids: dict[int, list[str]] = field(default_factory=dict)
    ids: list[int] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    logprobs: dict[str, list[Any]] = field(default_factory=dict)

    def add(self, choice: dict[str, Any]) -> None:
        delta = choice.get("delta") or {}
        self.text += choice.get("text") or delta.get("content") or ""
        self.reasoning += delta.get("reasoning") or ""
        for call in delta.get("tool_calls") or ():
            name_and_arguments = self.calls.setdefault(call["index"], ["", ""])
            name_and_arguments[0] += call["function"].get("name") or ""
            name_and_arguments[1] += call["function"].get("arguments") or ""
            self.call_ids.setdefault(call["index"], []).extend([call["id"]] if call.get("id") else [])
        self.ids += choice.get("token_ids") or ()
        self.reasons += [choice["finish_reason"]] if choice.get("finish_reason") else []
        for name, values in (choice.get("logprobs") or {}).items():
            self.logprobs.setdefault(name, []).extend(values or ())

    def comparable(self) -> tuple[Any, ...]:
        return self.text, self.reasoning, self.calls, self.ids, self.reasons, self.logprobs


def chunks(raw: bytes) -> list[dict[str, Any]]:
    return [orjson.loads(data) for _, data in SseParser().feed(raw) if data != b"[DONE]"]


def choice_outputs(raw: bytes) -> dict[int, ChoiceOutput]:
    """Return the outputs by the index of the choice."""
    found: dict[int, ChoiceOutput] = {}
    for chunk in chunks(raw):
        for choice in chunk["choices"]:
            found.setdefault(choice["index"], ChoiceOutput()).add(choice)
    return found


def outputs_of(raw: bytes) -> dict[int, tuple[Any, ...]]:
    return {index: one.comparable() for index, one in choice_outputs(raw).items()}


@dataclass(frozen=True)
class CutPoint:
    """Where a stream is cut. events: engine events that arrive; entry: True if the entry is lost too.

    with_text: cut later, once the client has a text that a reprompt does not sample again. Ids alone may be a part of
    reasoning or of a character, which a reprompt cannot continue. The number of events until then differs, since a busy
    vLLM joins tokens.
    """

    events: int
    entry: bool = False
    with_text: bool = False

    def is_here(self, events: int, raw: bytes) -> bool:
        return events >= self.events and (not self.with_text or any(one.text for one in choice_outputs(raw).values()))


class ContinuationRunner:
    """Runs one row's stream at an engine. methods: the method of each continuation, in order."""

    def __init__(self, engine: Engine, generation: GenerationRequest) -> None:
        self.engine = engine
        self.generation = generation
        self.methods: list[str] = []
        self.events = 0
        self.before_cut = b""

    def direct(self) -> bytes:
        """Return the engine's own answer, without the state machine."""
        request = EngineRequest(self.generation.route.value, orjson.dumps(self.generation.body.as_written))
        return b"".join(send(self.engine, request))

    def whole(self) -> bytes:
        return self._run(ChunkStream(self.generation, "s"), b"", (), None)

    def cut(self, *cuts: CutPoint, supported: Collection[str]) -> bytes:
        machine, raw = ChunkStream(self.generation, "s"), b""
        for cut in cuts:
            raw = self._run(machine, raw, supported, cut)
            self.before_cut = self.before_cut or raw
            if machine.state is StreamState.COMPLETE:
                return raw
            if cut.entry:
                written = bytes(machine.journal)
                after, machine = machine.seq, ChunkStream(self.generation, "s")
                replay = replay_journal(machine, written, after)
                assert replay == b""
        return self._run(machine, raw, supported, None)

    def _run(self, machine: ChunkStream, raw: bytes, supported: Collection[str], cut: CutPoint | None) -> bytes:
        received = 0
        while True:
            request = machine.request(supported)
            if machine.method_choice is not None:
                self.methods.append(machine.method_choice.method.value)
            self.events = 0
            for event in send(self.engine, request):
                raw += machine.feed(event)
                if not machine.seq:
                    continue  # texts of prompts, which are not sent to a client
                self.events += 1
                if machine.state in (StreamState.COMPLETE, StreamState.AWAITING_NEXT_REQUEST, StreamState.LOST):
                    break
                received += 1
                if cut is not None and cut.is_here(received, raw) and not (cut.with_text and machine.would_redraw):
                    return raw + machine.on_engine_end(LossReason.RESET)
            if machine.state not in (StreamState.AWAITING_NEXT_REQUEST, StreamState.COMPLETE):
                raw += machine.on_engine_end(LossReason.EOF)
            assert machine.state is not StreamState.LOST, machine.loss_reason
            if machine.state is StreamState.COMPLETE:
                return raw


def is_prefix(raw: bytes, whole: bytes) -> bool:
    """Return True if `raw` is a prefix of the whole answer, with reasoning and ids. whole: empty accepts any prefix."""
    right = choice_outputs(whole)
    return not whole or all(
        right[index].text.startswith(one.text)
        and right[index].reasoning.startswith(one.reasoning)
        and right[index].ids[: len(one.ids)] == one.ids
        for index, one in choice_outputs(raw).items()
    )


def engine_chunks(engine: Engine, machine: ChunkStream) -> Iterator[bytes]:
    """Return the events of the first engine's answer, after the request for the prompt's texts if one is needed."""
    events = send(engine, machine.request())
    if prompt_echo.needs_prompt_texts(machine.generation):
        for event in events:
            machine.feed(event)
        events = send(engine, machine.request())
    return events


def send(engine: Engine, request: EngineRequest) -> Iterator[bytes]:
    """Send a request, and yield the engine's events, each as raw bytes with its separator."""
    headers = {"content-type": "application/json"}
    with httpx.stream(
        "POST", engine.url + request.path, content=request.body, headers=headers, timeout=120
    ) as response:
        assert response.status_code == 200, response.read()
        held = b""
        for data in response.iter_bytes():
            *events, held = (held + data).split(b"\n\n")
            yield from (event + b"\n\n" for event in events)
