"""Test crash suspects: which requests are suspected, and which are refused."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from node_agent.core.failure.crash_suspects import RETENTION_S, SuspectStatus, SuspectTable

P, B = b"p" * 16, b"b" * 16


def test_one_death_refuses_nothing_and_an_answer_clears_a_suspect() -> None:
    cases = SuspectTable()
    assert not cases.record_death(P, "a/1", 0.0, alone=True, crashed=True)
    assert cases.status(P, 0.0) is SuspectStatus.SUSPECT
    cases.record_answer(P)
    assert (cases.status(P, 0.0), len(cases)) == (SuspectStatus.CLEAR, 0)
    assert not cases.record_death(P, "b/1", 1.0, alone=True, crashed=True)


def test_two_deaths_refuse_a_request_for_minutes() -> None:
    cases = SuspectTable()
    cases.record_death(P, "a/1", 0.0, alone=False, crashed=True)
    assert cases.record_death(P, "b/1", 1.0, alone=True, crashed=True)
    assert not cases.record_death(P, "c/1", 1.0, alone=True, crashed=True), "reported once"
    cases.record_answer(P)
    assert cases.status(P, RETENTION_S) is SuspectStatus.REFUSED
    assert cases.status(P, 1.0 + RETENTION_S) is SuspectStatus.CLEAR
    assert cases.status(B, 0.0) is SuspectStatus.CLEAR


def test_engines_that_were_stuck_refuse_a_request_only_from_the_third_on() -> None:
    """An engine may hang for reasons of its own."""
    cases = SuspectTable()
    assert not cases.record_death(P, "a/1", 0.0, alone=True, crashed=True)
    assert not cases.record_death(P, "b/1", 0.0, alone=True, crashed=False)
    assert cases.status(P, 0.0) is SuspectStatus.SUSPECT
    assert cases.record_death(P, "c/1", 0.0, alone=True, crashed=False)


def test_a_hundred_equal_requests_at_one_engine_are_one_death() -> None:
    cases = SuspectTable()
    assert not any(cases.record_death(P, "a/1", 0.0, alone=True, crashed=True) for _ in range(100))
    assert cases.status(P, 0.0) is SuspectStatus.SUSPECT


def test_beside_another_suspect_the_next_death_decides() -> None:
    cases = SuspectTable()
    for content in (P, B):
        cases.record_death(content, "a/1", 0.0, alone=False, crashed=True)
        assert not cases.record_death(content, "b/1", 0.0, alone=False, crashed=True)
    cases.record_answer(B)
    assert cases.record_death(P, "c/1", 0.0, alone=True, crashed=True)
    assert cases.status(B, 0.0) is SuspectStatus.CLEAR


def test_a_refusal_by_another_node_holds_here_as_long() -> None:
    cases = SuspectTable()
    cases.record_refusal(P, 5.0)
    assert cases.status(P, 4.9) is SuspectStatus.REFUSED
    assert cases.status(P, 5.0) is SuspectStatus.CLEAR


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 3), st.booleans(), st.booleans()), max_size=80))
def test_the_table_is_bounded_and_nothing_is_refused_without_two_deaths(
    reports: list[tuple[int, int, bool, bool]],
) -> None:
    cases, deaths = SuspectTable(most=8), dict[int, set[int]]()
    for content, engine, alone, crashed in reports:
        deaths.setdefault(content, set()).add(engine)
        refused = cases.record_death(content.to_bytes(16), f"{engine}", 0.0, alone=alone, crashed=crashed)
        assert len(cases) <= 8
        assert not refused or (alone and len(deaths[content]) >= 2)
