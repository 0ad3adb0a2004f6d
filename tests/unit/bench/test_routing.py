"""The bench of policies: its clients' prompts, its counts, and its failure where an engine fails."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from threading import Lock, Thread
from typing import Any

import pytest

from bench import conversations
from bench.conversations import Conversation, RunResult, rows, shared_prompt_trace, unrelated_trace
from bench.routing import ANSWER_TOKENS, CLIENTS, ENGINES, prefix_counts, run_trace
from local.engine_env import MAX_MODEL_LEN, engine_command
from local.errors import LocalRunError
from node_agent.core.common.address import Address
from node_agent.core.routing.affinity import conversation_key
from sim.entry import Policy

BLOCK = 128
FINISHED = {"index": 0, "delta": {"content": "b"}, "token_ids": [2], "finish_reason": "length"}


class FakeEngine(ThreadingHTTPServer):
    """What the bench needs of vLLM: a stream, and a prefix cache in blocks (of characters) that is counted."""

    daemon_threads = True

    def __init__(self, last: dict[str, Any] | None = FINISHED, caching: bool = True) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.address = Address("127.0.0.1", self.server_port)
        self.last = last
        self.caching = caching
        self.looked_up = self.hits = 0
        self._cache: set[str] = set()
        self._lock = Lock()

    def look_up(self, body: dict[str, Any]) -> None:
        text = "".join(f"<{message['role']}>{message['content']}" for message in body["messages"])
        blocks = [f"{body['cache_salt']}|{text[:end]}" for end in range(BLOCK, len(text), BLOCK)]
        with self._lock:
            self.looked_up += len(text)
            self.hits += BLOCK * sum(block in self._cache for block in blocks)
            self._cache.update(blocks)


class Answer(BaseHTTPRequestHandler):
    server: FakeEngine

    def do_POST(self) -> None:
        self.server.look_up(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        first = {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
        second = {"index": 0, "delta": {"content": "a"}, "token_ids": [1], "finish_reason": None}
        choices = [choice for choice in (first, second, self.server.last) if choice]
        events = [f"data: {json.dumps({'choices': [choice]})}\n\n" for choice in choices]
        self._send("".join([*events, "data: [DONE]\n\n"]), "text/event-stream")

    def do_GET(self) -> None:
        label = '{engine="0",model_name="tiny"}'
        counts = {"queries": self.server.looked_up, "hits": self.server.hits} if self.server.caching else {}
        lines = [f"# TYPE vllm:prefix_cache_{name} counter\n" for name in counts]
        lines = [
            f"{line}vllm:prefix_cache_{name}_total{label} {float(count)}\n"
            f"vllm:external_prefix_cache_{name}_total{label} 7.0\n"
            for line, (name, count) in zip(lines, counts.items(), strict=True)
        ]
        self._send("".join(lines), "text/plain")

    def _send(self, text: str, kind: str) -> None:
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        with suppress(ConnectionError):  # the bench has ended
            self.wfile.write(text.encode())

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def serving(engine: FakeEngine) -> Iterator[Address]:
    thread = Thread(target=engine.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield engine.address
    finally:
        engine.shutdown()
        thread.join()
        engine.server_close()


@pytest.fixture
def engines() -> Iterator[list[Address]]:
    with ExitStack() as stack:
        yield [stack.enter_context(serving(FakeEngine())) for _ in range(ENGINES)]


@pytest.fixture(autouse=True)
def _hasty_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversations, "THINKS_S", 0.002)


def played(policy: Policy, clients: str, trace: list[Conversation], engines: list[Address]) -> RunResult:
    return asyncio.run(run_trace(policy, clients, trace, engines, seed=1))


def test_conversations_stay_cached_only_where_their_prefix_decides(engines: list[Address]) -> None:
    trace = shared_prompt_trace(1, ENGINES)
    plays = {policy: played(policy, "chat", trace, engines) for policy in Policy}
    for found in plays.values():
        assert sum(found.requests_by_engine) == len(found.first_token_s) == conversations.CHATS * conversations.TURNS
        assert all(0 < waited < 60 for waited in found.first_token_s)
    ring = plays.pop(Policy.PREFIX)
    assert all(ring.hit_rate > found.hit_rate + 0.05 for found in plays.values())
    assert all(ring.read == found.read for found in plays.values())
    assert plays[Policy.ROUND_ROBIN].imbalance < 1.15


def test_unrelated_prompts_are_never_cached_nor_those_of_an_earlier_run(engines: list[Address]) -> None:
    trace = unrelated_trace(1, ENGINES)
    for policy in Policy:
        found = played(policy, "unrelated", trace, engines)
        assert (found.cached, sum(found.requests_by_engine)) == (0, conversations.ALONE)
        assert found.read > conversations.ALONE * conversations.ALONE_CHARACTERS[0]


@pytest.mark.parametrize("last", [None, FINISHED | {"finish_reason": "abort"}])
def test_an_incomplete_answer_ends_the_bench(last: dict[str, Any] | None) -> None:
    with serving(FakeEngine(last)) as engine, pytest.raises(LocalRunError, match="ended an answer with"):
        played(Policy.PREFIX, "chat", shared_prompt_trace(1, 1), [engine])


def test_an_engine_without_prefix_metrics_ends_the_bench() -> None:
    with serving(FakeEngine(caching=False)) as engine, pytest.raises(LocalRunError, match="is prefix caching on"):
        prefix_counts([engine])


def test_the_same_seed_gives_the_same_clients_and_another_one_others() -> None:
    assert shared_prompt_trace(1, 3) == shared_prompt_trace(1, 3) != shared_prompt_trace(2, 3)
    assert unrelated_trace(1, 3) == unrelated_trace(1, 3) != unrelated_trace(2, 3)
    assert {turn.entry for talk in shared_prompt_trace(1, 3) for turn in talk.questions} == {0, 1, 2}


def test_chats_share_their_system_prompt_and_no_key() -> None:
    trace = shared_prompt_trace(1, 3)
    assert len({talk.system for talk in trace}) == 1
    begun = [
        [{"role": "system", "content": talk.system}, {"role": "user", "content": talk.questions[0].question}]
        for talk in trace
    ]
    assert len({conversation_key(messages) for messages in begun}) == len(trace)
    firsts = sorted(talk.questions[0].question for talk in unrelated_trace(1, 3))
    assert all(one[:BLOCK] != other[:BLOCK] for one, other in pairwise(firsts))


def test_the_prompts_of_clients_fit_into_the_engine() -> None:
    around = 20  # tokens that the chat template puts around a message, at most
    most_bytes = 4 * ANSWER_TOKENS  # an answer's characters may be other tokens in the next prompt
    question_characters = conversations.QUESTION_CHARACTERS[1]
    longest = (
        conversations.SYSTEM_CHARACTERS + conversations.TURNS * (question_characters + most_bytes + 2 * around) + around
    )
    assert max(longest, conversations.ALONE_CHARACTERS[1] + ANSWER_TOKENS + 2 * around) <= MAX_MODEL_LEN
    command = engine_command(Path("env"), Path("model"), "tiny", "127.0.0.1", 1)
    assert int(command[command.index("--max-num-seqs") + 1]) >= CLIENTS


def test_rows_have_the_median_round_and_compare_within_each_round() -> None:
    def result(seed: int, policy: str, *first: float, cached: int = 100) -> RunResult:
        return RunResult("chat", seed, policy, first, (2, 1, 0), 200, cached, 2.0 * seed)

    mine = [result(1, "mine", 0.1, cached=140), result(2, "mine", 0.6, cached=150), result(3, "mine", 0.3, cached=160)]
    usual = [result(1, "usual", 0.2), result(2, "usual", 0.8), result(3, "usual", 0.4, 0.4, 0.9)]
    alone = RunResult("alone", 1, "mine", (0.1,), (1, 1, 1), 10, 0, 3.0)
    assert rows([mine[0], alone, *usual, *mine[1:]], "usual") == [
        ["alone", "mine", "0", "0.10", "-", "0.10", "-", "1.00"],
        ["chat", "mine", "75 (70-80)", "0.30 (0.10-0.60)", "0.75 (0.50-0.75)", "0.30 (0.10-0.60)", "0.50 (0.33-0.75)",
         "2.00"],
        ["chat", "usual", "50", "0.40 (0.20-0.80)", "1.00", "0.80 (0.20-0.90)", "1.00", "2.00"],
    ]  # fmt: skip
