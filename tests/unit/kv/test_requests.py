"""Which blocks are stored and which are not computed, step by step, in the order of vLLM's scheduler calls."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from node_agent.core.kv.blocks import block_name, chain, chain_root
from node_agent.kv.requests import Load, Requests

MADE, SIZE = bytes(16), 4
IDS = list(range(100, 140))
KEYS = chain(chain_root(MADE), IDS, SIZE)


@dataclass
class Request:
    """As vLLM's; all its ids are known."""

    request_id: str = "r"
    all_token_ids: list[int] = field(default_factory=lambda: IDS[:18])
    num_computed_tokens: int = 0

    @property
    def num_tokens(self) -> int:
        return len(self.all_token_ids)


@dataclass
class Scheduler:
    """Requests, and the blocks that are there."""

    there: set[str] = field(default_factory=set)
    shards: int = 1
    requests: Requests = field(init=False)

    def __post_init__(self) -> None:
        self.requests = Requests(MADE, SIZE, self.there.__contains__, self.shards)

    def keep(self, *places: int, shards: int = 1) -> None:
        for place in places:
            self.there.update(block_name(KEYS[place], shard, shards) for shard in range(shards))

    def step(self, request: Request, computing: int) -> tuple[list[tuple[int, int]], bytes | None]:
        """((block id, place) of what is to be kept, head). Block ids are the places + 50."""
        due = self.requests.plan_saves(request.request_id, computing, lambda _: ([50 + place for place in range(20)],))
        request.num_computed_tokens += computing
        for save in due.saves:
            assert (save.key, save.request) == (KEYS[save.place], request.request_id)
            assert save.parent == (KEYS[save.place - 1] if save.place else chain_root(MADE))
        return [(save.block_id, save.place) for save in due.saves], due.last_block


def test_a_prompt_in_two_steps_then_tokens_one_by_one() -> None:
    vllm, request = Scheduler(), Request()
    assert vllm.requests.match(request, "", 0, 18) == 0
    assert vllm.requests.on_scheduled(request, "", range(50, 55), 0) is None
    assert vllm.step(request, 10) == ([(50, 0), (51, 1)], None)
    assert vllm.step(request, 8) == ([(52, 2), (53, 3)], None)
    for count in range(19, 25):
        request.all_token_ids = IDS[:count]
        saves, _ = vllm.step(request, 1)
        assert saves == ([(54, 4)] if count == 20 else [(55, 5)] if count == 24 else [])


def test_ids_that_lag_behind_the_step_keep_their_block_back() -> None:
    """With asynchronous scheduling a step runs before the ids of the one in front of it are known."""
    vllm, request = Scheduler(), Request(all_token_ids=IDS[:3])
    vllm.requests.on_scheduled(request, "", range(50, 52), 0)
    assert vllm.step(request, 4) == ([], None)
    request.all_token_ids = IDS[:4]
    assert vllm.step(request, 1) == ([(50, 0)], None)


def test_stored_blocks_are_offered_up_to_the_first_gap_and_loaded() -> None:
    vllm, request = Scheduler(), Request()
    vllm.keep(0, 1, 3)
    assert vllm.requests.match(request, "", 0, 18) == 2 * SIZE
    load = vllm.requests.on_scheduled(request, "", range(50, 55), 2 * SIZE)
    assert load == Load("r", ((50, KEYS[0]), (51, KEYS[1])))
    request.num_computed_tokens = 2 * SIZE
    assert vllm.step(request, 10) == ([(52, 2)], KEYS[3]), "the fourth block is there; it is this request's last"


def test_blocks_that_the_engine_has_are_not_loaded_and_those_behind_are() -> None:
    vllm, request = Scheduler(), Request()
    vllm.keep(0, 1, 2, 3)
    assert vllm.requests.match(request, "", 2 * SIZE, 18) == 2 * SIZE
    load = vllm.requests.on_scheduled(request, "", range(50, 55), 2 * SIZE)
    assert load == Load("r", ((52, KEYS[2]), (53, KEYS[3])))


def test_the_scheduler_may_repeat_a_call_and_take_less() -> None:
    vllm, request = Scheduler(), Request()
    vllm.keep(0, 1, 2)
    for _ in range(3):
        assert vllm.requests.match(request, "", 0, 18) == 3 * SIZE
    assert vllm.requests.match(request, "", SIZE, 18) == 2 * SIZE, "the engine has found one itself meanwhile"
    load = vllm.requests.on_scheduled(request, "", range(50, 55), SIZE)
    assert load == Load("r", ((51, KEYS[1]),))


def test_blocks_are_offered_once_so_that_a_failed_load_is_computed() -> None:
    vllm, request = Scheduler(), Request()
    vllm.keep(0, 1)
    assert vllm.requests.match(request, "", 0, 18) == 2 * SIZE
    vllm.requests.on_scheduled(request, "", range(50, 55), 2 * SIZE)
    vllm.there.clear()  # the loader found them damaged, and removed them
    assert vllm.requests.match(request, "", 0, 18) == 0
    assert vllm.requests.on_scheduled(request, "", range(60, 65), 0) is None
    assert vllm.step(request, 18) == ([(50, 0), (51, 1), (52, 2), (53, 3)], None), "and kept again"


@pytest.mark.parametrize("most", [0, 3, 4, 11])
def test_no_more_is_offered_than_the_scheduler_accepts(most: int) -> None:
    vllm, request = Scheduler(), Request()
    vllm.keep(0, 1, 2, 3)
    assert vllm.requests.match(request, "", 0, most) == most // SIZE * SIZE


def test_a_block_is_available_when_all_its_shards_are() -> None:
    vllm, request = Scheduler(shards=2), Request()
    vllm.keep(0, shards=2)
    vllm.there.add(block_name(KEYS[1], 0, 2))
    assert vllm.requests.match(request, "", 0, 18) == SIZE


def test_a_salt_has_its_own_blocks() -> None:
    vllm, request = Scheduler(), Request()
    vllm.keep(0, 1, 2)
    assert vllm.requests.match(request, "tenant", 0, 18) == 0


def test_nothing_is_kept_of_a_finished_request() -> None:
    vllm = Scheduler()
    vllm.keep(0)
    for number in range(3):
        request = Request(f"r{number}")
        vllm.requests.match(request, "", 0, 18)
        if number:
            vllm.requests.on_scheduled(request, "", range(50, 55), SIZE)
    assert len(vllm.requests) == 3
    for number in range(3):
        vllm.requests.remove(f"r{number}")
    vllm.requests.remove("nobody")
    assert len(vllm.requests) == 0
    assert vllm.requests.plan_saves("r1", 4, lambda _: ([],)).saves == ()
