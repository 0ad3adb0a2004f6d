"""KV blocks on a real vLLM: one engine stores them, another loads them, and computes those that it cannot use.

Two engines run one after the other. The first one's blocks are copied to the second's folder, as a peer would send
them. The second resets its prefix cache before each request, so that all blocks come from the folder.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from local.aws import free_port
from local.engine_env import engine_command, engine_environ, ensure_engine
from local.tiny_model import ensure_model
from node_agent.core.kv.blocks import HEADER_BYTES, block_name, chain, chain_root, engine_fingerprint, pack_header
from node_agent.core.kv.vllm_args import kv_arguments
from node_agent.kv.folder import BlockFolder
from tests.engines import MODEL, VLLM_TIMEOUT_S, Engine, running_engine

pytestmark = [pytest.mark.vllm, pytest.mark.long]

ROOT = Path(__file__).parents[2]
BLOCK = 128
PROMPT, ANSWER = 300, 300
KEPT = (PROMPT + ANSWER) // BLOCK
MAX_BYTES = 1024**3
SALT = "tenant"


def prompt(seed: int, length: int = PROMPT) -> list[int]:
    return random.Random(seed).choices(range(10, 390), k=length)


@dataclass
class EngineWithFolder:
    """An engine and its folder of blocks."""

    engine: Engine
    folder: BlockFolder

    def answer(self, ids: list[int], tokens: int, name: str = "r", **fields: Any) -> list[int]:
        body = {"model": MODEL, "prompt": ids, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
        body |= {"return_token_ids": True, **fields}
        headers = {"x-request-id": name}
        response = httpx.post(f"{self.engine.url}/v1/completions", json=body, headers=headers, timeout=120)
        assert response.status_code == 200, response.text
        got: list[int] = response.json()["choices"][0]["token_ids"]
        return got

    def loaded(self, request: Callable[[], list[int]]) -> tuple[int, list[int]]:
        """Return how many tokens were loaded from the folder during `request`, and its answer."""
        reset = httpx.post(f"{self.engine.url}/reset_prefix_cache", timeout=30)
        assert reset.status_code == 200
        before = self._external()
        answer = request()
        return int(self._external() - before), answer

    def _external(self) -> float:
        lines = httpx.get(f"{self.engine.url}/metrics", timeout=30).text.splitlines()
        return sum(
            float(line.split()[-1]) for line in lines if line.startswith("vllm:external_prefix_cache_hits_total{")
        )

    def names(self) -> list[str]:
        return sorted(path.name for path in self.folder.root.rglob("*.kv"))


@contextmanager
def started(folder: Path, blocks: Path) -> Iterator[EngineWithFolder]:
    environment = ensure_engine(print)
    port = free_port()
    argv = engine_command(environment, ensure_model(environment, print), MODEL, "127.0.0.1", port)
    argv += ["--distributed-executor-backend", "uni", "--max-num-batched-tokens", "256"]  # a prompt takes two steps
    argv += kv_arguments(str(blocks), MAX_BYTES)
    environ = {**engine_environ(), "PYTHONPATH": str(ROOT), "VLLM_SERVER_DEV_MODE": "1"}
    environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "01"  # see local/engines
    with running_engine(argv, port, folder, environ, VLLM_TIMEOUT_S) as engine:
        yield EngineWithFolder(engine, BlockFolder(blocks, MAX_BYTES))


@dataclass(frozen=True)
class FirstEngine:
    """The folder of the first engine, which has ended, and its answers to the prompts of seeds 1, 2, ..."""

    folder: Path
    answers: dict[int, list[int]]
    salted: list[int]


@pytest.fixture(scope="module")
def first_engine(tmp_path_factory: pytest.TempPathFactory) -> FirstEngine:
    folder = tmp_path_factory.mktemp("first")
    blocks = folder / "blocks"
    with started(folder, blocks) as first:
        answers = {1: first.answer(prompt(1), ANSWER, "first")}
        with ThreadPoolExecutor() as at_once:
            seeds = range(2, 8)
            several = at_once.map(lambda seed: first.answer(prompt(seed), ANSWER, f"s{seed}"), seeds)
            answers |= dict(zip(seeds, several, strict=True))
        salted = first.answer(prompt(1), ANSWER, "salted", cache_salt=SALT)
        first.engine.terminate()
        first.engine.process.wait(60)  # what was queued is written
    return FirstEngine(blocks, answers, salted)


@pytest.fixture(scope="module")
def engine(first_engine: FirstEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineWithFolder]:
    folder = tmp_path_factory.mktemp("second")
    with started(folder, folder / "blocks") as made:
        yield made


@pytest.fixture
def second(first_engine: FirstEngine, engine: EngineWithFolder) -> EngineWithFolder:
    """The second engine, with a fresh copy of the first one's blocks and nothing else."""
    shutil.rmtree(engine.folder.root)
    shutil.copytree(first_engine.folder, engine.folder.root)
    return engine


def keys_of(stored: EngineWithFolder, ids: list[int], salt: str = "") -> list[bytes]:
    layout = stored.folder.read_layout()
    assert layout is not None
    return chain(chain_root(bytes.fromhex(layout["fingerprint"]), salt), ids, BLOCK)


def whole(first_engine: FirstEngine, seed: int = 1) -> list[int]:
    return prompt(seed) + first_engine.answers[seed]


def test_every_full_block_of_prompt_and_answer_is_stored(first_engine: FirstEngine) -> None:
    folder = BlockFolder(first_engine.folder, MAX_BYTES)
    layout = folder.read_layout()
    assert layout is not None
    assert layout["block_tokens"] == BLOCK
    for seed in first_engine.answers:
        keys = chain(chain_root(bytes.fromhex(layout["fingerprint"])), whole(first_engine, seed), BLOCK)
        assert len(keys) == KEPT
        assert all(folder.contains(block_name(key)) for key in keys)
    heads = {request: key for request, key in folder.last_blocks().items() if request.startswith("cmpl-first-")}
    assert list(heads.values()) == [
        chain(chain_root(bytes.fromhex(layout["fingerprint"])), whole(first_engine), BLOCK)[-1]
    ]


@pytest.mark.parametrize("done", [0, 1, 127, 212, 213, 260])
def test_another_engine_continues_from_the_stored_blocks(
    first_engine: FirstEngine, second: EngineWithFolder, done: int
) -> None:
    """As in a continuation: prompt and delivered ids, which may end anywhere in a block."""
    ids = prompt(1) + first_engine.answers[1][:done]
    loaded, rest = second.loaded(lambda: second.answer(ids, ANSWER - done))
    assert loaded == len(ids) // BLOCK * BLOCK
    assert rest == first_engine.answers[1][done:]


def test_concurrent_requests_load_their_blocks_and_continue(
    first_engine: FirstEngine, second: EngineWithFolder
) -> None:
    def all_at_once() -> list[int]:
        with ThreadPoolExecutor() as at_once:
            rests = at_once.map(
                lambda seed: second.answer(whole(first_engine, seed)[:-40], 40, f"m{seed}"), first_engine.answers
            )
            return [token for rest in rests for token in rest]

    loaded, rests = second.loaded(all_at_once)
    assert rests == [token for seed in first_engine.answers for token in first_engine.answers[seed][-40:]]
    assert loaded == len(first_engine.answers) * ((PROMPT + ANSWER - 40) // BLOCK * BLOCK)


def test_a_prompt_of_full_blocks_only_is_loaded_from_the_folder(
    first_engine: FirstEngine, second: EngineWithFolder
) -> None:
    ids = whole(first_engine)[: KEPT * BLOCK]
    loaded, rest = second.loaded(lambda: second.answer(ids, PROMPT + ANSWER - len(ids)))
    assert loaded == KEPT * BLOCK
    assert rest == whole(first_engine)[len(ids) :]


def damaged(data: bytes, at: int = -1) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 1
    return bytes(changed)


DAMAGE: dict[str, Callable[[bytes], bytes | None]] = {
    "missing": lambda data: None,
    "a bit of its payload": damaged,
    "a bit of its digest": lambda data: damaged(data, HEADER_BYTES - 1),
    "half written": lambda data: data[: len(data) // 2],
    "half a header": lambda data: data[:20],
    "empty": lambda data: b"",
    "too long": lambda data: data + b"\0",
    "another file": lambda data: b"{}" * 4096,
}


@pytest.mark.parametrize("what", DAMAGE)
@pytest.mark.parametrize("place", [0, 2])
def test_an_unusable_block_is_computed_and_stored_again(
    first_engine: FirstEngine, second: EngineWithFolder, what: str, place: int
) -> None:
    keys = keys_of(second, whole(first_engine))
    path = second.folder.path(block_name(keys[place]))
    good = path.read_bytes()
    bad = DAMAGE[what](good)
    path.unlink()
    if bad is not None:
        path.write_bytes(bad)
    _, rest = second.loaded(lambda: second.answer(whole(first_engine)[:-40], 40))
    assert rest == first_engine.answers[1][-40:]
    loaded, rest = second.loaded(lambda: second.answer(whole(first_engine)[:-40], 40))
    assert rest == first_engine.answers[1][-40:]
    assert loaded == (PROMPT + ANSWER - 40) // BLOCK * BLOCK, "the computed block was stored"


def test_a_block_of_another_model_under_the_right_name_is_not_loaded(
    first_engine: FirstEngine, second: EngineWithFolder
) -> None:
    keys = keys_of(second, whole(first_engine))
    path = second.folder.path(block_name(keys[1]))
    payload = bytes(len(path.read_bytes()) - HEADER_BYTES)
    path.write_bytes(pack_header(engine_fingerprint({"weights": "others"}), keys[1], keys[0], 1, payload) + payload)
    _, rest = second.loaded(lambda: second.answer(whole(first_engine)[:-40], 40))
    assert rest == first_engine.answers[1][-40:]
    assert path.read_bytes()[HEADER_BYTES:] != payload, "the right block replaced it"


def test_another_requests_block_under_the_right_name_is_not_loaded(
    first_engine: FirstEngine, second: EngineWithFolder
) -> None:
    mine, others = keys_of(second, whole(first_engine)), keys_of(second, whole(first_engine, 2))
    shutil.copy(second.folder.path(block_name(others[1])), second.folder.path(block_name(mine[1])))
    _, rest = second.loaded(lambda: second.answer(whole(first_engine)[:-40], 40))
    assert rest == first_engine.answers[1][-40:]


def test_a_salted_request_shares_no_block_with_others(first_engine: FirstEngine, second: EngineWithFolder) -> None:
    assert first_engine.salted == first_engine.answers[1]
    keys = {*keys_of(second, whole(first_engine)), *keys_of(second, whole(first_engine), SALT)}
    assert len(keys) == 2 * KEPT
    assert all(second.folder.contains(block_name(key)) for key in keys)
    loaded, _ = second.loaded(lambda: second.answer(prompt(1), 1, cache_salt="another"))
    assert loaded == 0
    loaded, rest = second.loaded(lambda: second.answer(prompt(1), ANSWER, cache_salt=SALT))
    assert (loaded, rest) == (PROMPT // BLOCK * BLOCK, first_engine.answers[1])


def test_a_probes_blocks_are_neither_stored_nor_loaded(first_engine: FirstEngine, second: EngineWithFolder) -> None:
    before = second.names()
    loaded, _ = second.loaded(lambda: second.answer(prompt(1), 1, "synkti-probe-1"))
    assert loaded == 0
    second.answer(prompt(99), 1, "synkti-probe-2")
    assert second.names() == before


def test_a_request_aborted_during_a_load_affects_no_other_request(
    first_engine: FirstEngine, second: EngineWithFolder
) -> None:
    def with_an_abort() -> list[int]:
        body = {
            "model": MODEL,
            "prompt": whole(first_engine, 3),
            "max_tokens": 3000,
            "stream": True,
            "ignore_eos": True,
        }
        with httpx.stream("POST", f"{second.engine.url}/v1/completions", json=body, timeout=60) as response:
            next(response.iter_bytes())
        return second.answer(whole(first_engine, 4)[:-40], 40)

    _, rest = second.loaded(with_an_abort)
    assert rest == first_engine.answers[4][-40:]
