"""Chaos's own rules: every kind gets its turn, the promise's terms are kept, equal seeds send equal requests."""

from __future__ import annotations

import asyncio
import itertools
import re
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import httpx as engine_http
import pytest

from local.chaos import contexts, faulty
from local.chaos.event_collector import EventCollector
from local.chaos.kinds import FAULT_KINDS, FailureBudget, FaultKind, shuffled
from local.chaos.runner import ChaosRun, scale_of
from local.chaos.workload import WorkloadRequest, expected, random_request
from local.engines import SIM, VLLM, LocalEngine, prepare_engine
from local.errors import LocalRunError, UserActionRequired
from synkti_client import httpx


def test_no_kind_is_rare() -> None:
    drawn = list(itertools.islice(shuffled(Random(1), FAULT_KINDS), 3 * len(FAULT_KINDS)))
    assert {drawn.count(kind) for kind in FAULT_KINDS} == {3}


def test_the_page_names_every_kind_and_no_other() -> None:
    page = (Path(__file__).parents[3] / "docs" / "reliability.md").read_text()
    section = page.partition("## Kinds of chaos")[2].partition("The certificate counts each kind")[0]
    shown = re.findall(r"`([a-z-]+)`", section)
    assert sorted(shown) == sorted({kind.name for kind in FAULT_KINDS})


def test_equal_seeds_send_equal_requests_with_known_answers() -> None:
    one, other = ([random_request(random, (20, 60)) for _ in range(40)] for random in (Random(3), Random(3)))
    assert one == other
    assert {q.via for q in one} == {"client", "gateway"}
    assert any(q.choices > 1 for q in one)
    assert {q.route for q in one} == {"chat", "plain", "responses", "messages"}
    for question in one:
        right = expected(question)
        assert right.token_ids
        assert not question.echo or right.text.startswith(question.text)


def test_a_real_engine_gets_requests_of_every_kind_of_state() -> None:
    random = Random(5)
    drawn = [random_request(random, (600, 600), texts=3, choices=1, states=4) for _ in range(200)]
    assert {question.state for question in drawn} == {"", "seed", "penalties", "grammar", "all"}
    options = next(question for question in drawn if question.state == "all").sdk_arguments("m")
    assert (options["seed"], options["frequency_penalty"]) == (3, 0.2)
    assert "regex" in options["extra_body"]["structured_outputs"]
    assert options["extra_body"]["ignore_eos"] is True
    assert len({question.key[-1] for question in drawn}) == 5
    assert {question.state for question in drawn if question.uses_named_events} == {""}
    assert {random_request(random, (20, 20)).state for _ in range(50)} == {""}


def _collected(*events: dict[str, Any]) -> EventCollector:
    notes = EventCollector(WorkloadRequest("responses", "x", 20, "client"))
    for event in events:
        notes.add_event(event)
    return notes


BEGUN = {"type": "response.output_text.delta", "delta": "ab", "sequence_number": 0}
MORE = {"type": "response.output_text.delta", "delta": "c", "sequence_number": 1}
PARTS = [{"content": [{"text": "abc"}]}]
END = {"type": "response.completed", "response": {"status": "completed", "output": PARTS}, "sequence_number": 2}


def test_events_that_agree_are_an_answer() -> None:
    notes = _collected(BEGUN, MORE, END)
    assert (notes.inconsistency(), notes.outputs()[0].text, notes.finish_reasons) == (None, "abc", ["completed"])


@pytest.mark.parametrize(
    ("events", "why"),
    [
        ((BEGUN, MORE), "0 ends"),
        ((BEGUN, MORE, END, END), "2 ends"),
        ((BEGUN, {**MORE, "sequence_number": 0}, END), "numbered"),
        ((BEGUN, {**MORE, "delta": "x"}, END), "whole response"),
    ],
)
def test_inconsistent_events_are_reported(events: tuple[dict[str, Any], ...], why: str) -> None:
    assert why in str(_collected(*events).inconsistency())


def test_an_error_event_is_an_error() -> None:
    with pytest.raises(httpx.ReadError, match="handoff"):
        _collected(BEGUN, {"type": "error", "error": {"code": "handoff"}})


@pytest.mark.parametrize(("victims", "waits"), [([1, 1], False), ([2], False), ([1, 2], True), ([1, 1, 1], True)])
def test_at_most_two_of_entry_and_replicas_are_lost_at_once(victims: list[int], waits: bool) -> None:
    now = 0.0
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        nonlocal now
        slept.append(seconds)
        now += seconds

    async def story() -> None:
        losses = FailureBudget(lambda: now)
        for number in victims:
            await losses.reserve(FaultKind("k", strike, number, without_notice=True))
        await losses.reserve(FaultKind("announced", strike))

    async def strike(*_: object) -> None:
        raise AssertionError("nobody strikes here")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("local.chaos.kinds.asyncio.sleep", sleep)
        asyncio.run(story())
    assert bool(slept) == waits
    assert sum(slept) <= FailureBudget.DETECTION_S


def chaos_with(keeps_blocks: bool) -> ChaosRun:
    engine = LocalEngine(VLLM, "", "", lambda host, port: [], {}, lambda question: None, 1.0, keeps_blocks)
    nobody: Any = None
    return ChaosRun(nobody, engine, scale_of(engine), nobody, "", nobody)


def test_with_a_block_store_contexts_are_long_and_many_are_unique() -> None:
    plain, kept = ([chaos_with(keeps).random_request(random) for _ in range(60)] for keeps, random in _twice())
    assert not any(question.salt for question in plain)
    salts = [question.salt for question in kept if question.salt]
    assert len(set(salts)) == len(salts) > 30
    assert any(not question.salt for question in kept)
    assert min(len(question.text) for question in kept) > 200 > max(len(question.text) for question in plain)
    assert {question.max_tokens for question in kept} == {1_000}
    assert {question.max_tokens for question in plain} == {600}
    salted = next(question for question in kept if question.salt)
    assert salted.sdk_arguments("m")["extra_body"]["cache_salt"] == salted.salt
    assert "cache_salt" not in plain[0].sdk_arguments("m")["extra_body"]
    assert salted.salt not in salted.key, "its answer is that of the same question without"


def _twice() -> list[tuple[bool, Random]]:
    return [(False, Random(3)), (True, Random(3))]


def test_an_engine_without_computation_keeps_no_blocks() -> None:
    with pytest.raises(UserActionRequired, match="ENGINE=vllm"):
        prepare_engine(SIM, print, 1)


def test_the_outcome_of_contexts_is_read_from_the_logs(tmp_path: Path) -> None:
    (tmp_path / "gateway.log").write_text("stream x: its context: peer: 1; 9 blocks came in 1 s\n")
    (tmp_path / "i-1.log").write_text(
        "t INFO m: stream a: its context: peer: 640 tokens, 0.01 s, against 0.1 s of computing; 5 blocks came in 1 s\n"
        "t INFO m: stream b: its context: s3: 640 tokens, 0.01 s, against 0.2 s of computing; 2 blocks came in 0.2 s,"
        " given up\n"
        "t INFO m: stream c: its context: nothing is missing; 0 blocks came in 0.000 s\n"
        "t INFO m: stream d: its context: 9 tokens are computed in 0.01 s (peer: 9, 0.1 s); 0 blocks came in 0.0 s\n"
        "t INFO m: stream e: its context: no context within 10 s; 0 blocks came in 0.000 s\n"
        "t WARNING m: a block that came is not kept: damaged\n"
        "t WARNING m: request r: KV block 3 is computed again: damaged\n"
        "t INFO m: stream f: its context is left in S3: 12 bytes\n"
    )
    ways, further = contexts.count(tmp_path)
    assert set(ways.values()) == {1}
    assert set(ways) == {"peer", "s3", "here already", "computed, because faster", "computed, for another reason"}
    assert further == {
        "blocks that came": 7,
        "given up": 1,
        "blocks that were not taken": 1,
        "blocks that the engine would not load": 1,
        "left in S3": 1,
    }
    assert "peer: 1" in contexts.summary(tmp_path)
    assert contexts.summary(tmp_path / "nothing") == "none"


def test_an_engine_that_does_not_answer_in_time_gets_its_setting_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It stayed at seconds a token until the run ended, and requests in one piece timed out."""
    settings: list[object] = []

    async def post(self: object, url: str, json: object) -> object:
        settings.append(json)
        if len(settings) < 3:
            raise engine_http.ReadTimeout("busy")
        return engine_http.Response(200)

    monkeypatch.setattr(engine_http.AsyncClient, "post", post)
    instance: Any = SimpleNamespace(host="127.0.0.1", instance_id="i-1")
    asyncio.run(faulty._change_core(instance, {"seconds_per_token": 0.01}))
    assert settings == [{"seconds_per_token": 0.01}] * 3


def test_an_engine_that_never_answers_fails_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    async def post(self: object, url: str, json: object) -> object:
        raise engine_http.ReadTimeout("busy")

    monkeypatch.setattr(engine_http.AsyncClient, "post", post)
    instance: Any = SimpleNamespace(host="127.0.0.1", instance_id="i-1")
    with pytest.raises(LocalRunError, match="does not answer"):
        asyncio.run(faulty._change_core(instance, {"wedged": True}))
