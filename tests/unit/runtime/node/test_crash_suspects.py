"""Test what a node does with the requests that engines died under: suspects are sent, refused ones are rejected."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from node_agent.contract.errors import RequestRejected
from node_agent.core.failure.loss import EngineDeath, LossReason
from node_agent.runtime.node.crash_suspects import KILLS_ENGINES, CrashSuspects
from tests.unit.runtime.a_node import make_node

CONTENT, OTHER = b"c" * 16, b"o" * 16
DIED = EngineDeath(LossReason.ENGINE_DIED, "1", alone=True)
KILLED = EngineDeath(LossReason.ENGINE_KILLED, "1", alone=True)


def run_scenario(scenario: Callable[[CrashSuspects], None]) -> None:
    async def run() -> None:
        scenario(make_node(0).crash_suspects)

    asyncio.run(run())


def is_refused(suspects: CrashSuspects, content: bytes | None) -> bool:
    try:
        suspects.raise_if_refused(content)
    except RequestRejected as rejected:
        return (rejected.status, rejected.code) == (422, KILLS_ENGINES)
    return False


def test_a_request_is_suspect_after_one_death_and_refused_after_two() -> None:
    def scenario(suspects: CrashSuspects) -> None:
        assert (suspects.is_suspect(CONTENT), is_refused(suspects, CONTENT)) == (False, False)
        suspects.on_loss(CONTENT, "i-1", DIED)
        assert (suspects.is_suspect(CONTENT), is_refused(suspects, CONTENT)) == (True, False)
        suspects.on_loss(CONTENT, "i-2", DIED)
        assert (suspects.is_suspect(CONTENT), is_refused(suspects, CONTENT)) == (False, True)
        counted = suspects._metrics.engine_deaths, suspects._metrics.fatal_refused, suspects._metrics.fatal_known
        assert [
            sample.value
            for each in counted
            for family in each.collect()
            for sample in family.samples
            if "created" not in sample.name
        ] == [2, 1, 1]
        assert (suspects.is_suspect(OTHER), is_refused(suspects, OTHER)) == (False, False)

    run_scenario(scenario)


def test_a_suspect_that_an_engine_answers_is_clear_again() -> None:
    def scenario(suspects: CrashSuspects) -> None:
        suspects.on_loss(CONTENT, "i-1", DIED)
        suspects.on_answer(CONTENT)
        assert not suspects.is_suspect(CONTENT)
        assert not len(suspects)

    run_scenario(scenario)


@pytest.mark.parametrize("loss", [KILLED, LossReason.RESET, LossReason.ENGINE_DIED])
def test_only_an_engine_that_died_by_itself_makes_a_request_suspect(loss: EngineDeath | LossReason) -> None:
    def scenario(suspects: CrashSuspects) -> None:
        suspects.on_loss(CONTENT, "i-1", loss)
        assert not suspects.is_suspect(CONTENT)

    run_scenario(scenario)


def test_a_request_without_a_digest_is_neither_suspect_nor_refused() -> None:
    def scenario(suspects: CrashSuspects) -> None:
        for node in ("i-1", "i-2", "i-3"):
            suspects.on_loss(None, node, DIED)
        assert (suspects.is_suspect(None), is_refused(suspects, None)) == (False, False)

    run_scenario(scenario)
