"""A client of vLLM works with a node: the same requests, sent to the engine and to a node in front of it.

`make test` runs the cases that the fake engine emulates; `make test-all` runs all of them with a real vLLM.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.conformance.cases import NOT_EMULATED, Case, all_cases
from tests.conformance.compare import HttpAnswer, differences
from tests.conformance.differences import DIFFERENCES
from tests.conformance.running import EnginePair

CASES = all_cases()
EMULATED = [case for case in CASES if not any(part in case.name for part in NOT_EMULATED)]
DOC = Path(__file__).parents[2] / "docs" / "compatibility.md"


def check(pair: EnginePair, case: Case) -> None:
    stock, node = pair.both(case)
    found = differences(stock, node)
    allowed = {part for name in case.differs for part in DIFFERENCES[name].parts}
    unexplained = {part: values for part, values in found.items() if part not in allowed}
    for part, (from_vllm, from_node) in unexplained.items():  # in full: an assertion's own message is cut
        print(f"{part}\n    vLLM: {from_vllm}\n    node: {from_node}")
    assert not unexplained, case
    for name in case.differs:
        assert DIFFERENCES[name].node in (None, node.status)
    assert {name for name in case.differs if DIFFERENCES[name].parts} <= _shown(case, found), "no longer a difference"
    _check_form(case, node)


def _shown(case: Case, found: dict[str, tuple[Any, Any]]) -> set[str]:
    return {name for name in case.differs if DIFFERENCES[name].parts & found.keys()}


def _check_form(case: Case, node: HttpAnswer) -> None:
    """Assert what holds for every answer of a node."""
    assert node.headers.get("x-request-id"), "every answer has a request id"
    assert len(node.body) < 1_000_000
    if node.is_stream:
        assert b"\nid:" not in node.body
        assert not node.body.startswith((b"id:", b":"))


@pytest.mark.parametrize("case", EMULATED, ids=lambda case: case.name)
def test_a_node_answers_like_its_fake_engine(fake_engine: EnginePair, case: Case) -> None:
    check(fake_engine, case)


@pytest.mark.long
@pytest.mark.vllm
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_node_answers_like_vllm(vllm: EnginePair, case: Case) -> None:
    check(vllm, case)


def test_every_difference_is_documented_with_its_reason() -> None:
    text = " ".join(DOC.read_text().split())
    for name, difference in DIFFERENCES.items():
        assert f"`{name}`" in text, name
        assert difference.reason in text, name
    assert {name for case in CASES for name in case.differs} == set(DIFFERENCES)
