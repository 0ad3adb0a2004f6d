"""The certificate: what counts as lost, as duplicated, and when the promise holds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local.certificate import Output, StreamOutcome, build_certificate, passed, quantile


def account(delivered: tuple[int, ...], reference: tuple[int, ...] = (1, 2, 3, 4), text: str = "abcd") -> StreamOutcome:
    return StreamOutcome("s", Output(reference, "abcd"), Output(delivered, text), "notice", 5.0)


@pytest.mark.parametrize(
    ("delivered", "lost", "duplicated"),
    [
        ((1, 2, 3, 4), 0, 0),
        ((1, 2, 4), 1, 0),
        ((1, 2, 2, 3, 4), 0, 1),
        ((1, 2), 2, 0),
        ((), 4, 0),
        ((1, 9, 3, 4), 1, 1),
    ],
)
def test_lost_and_repeated_events_are_counted(delivered: tuple[int, ...], lost: int, duplicated: int) -> None:
    stream = account(delivered)
    assert (stream.lost_tokens, stream.duplicated_tokens) == (lost, duplicated)
    assert stream.verified is (delivered == (1, 2, 3, 4))


@given(st.lists(st.integers(0, 9)), st.lists(st.integers(0, 9)), st.text(), st.text())
def test_chains_are_equal_only_for_equal_answers(a: list[int], b: list[int], s: str, t: str) -> None:
    left, right = Output(tuple(a), s), Output(tuple(b), t)
    assert (left.hash_chain == right.hash_chain) is (left == right)


def test_the_promise_holds_only_without_any_fault() -> None:
    good = build_certificate("sim", 1, {"notice": 1}, [account((1, 2, 3, 4))], 1.0)
    assert passed(good)
    assert good["resumed"] == 1
    assert good["interruptions"] == {"notice": 1, "total": 1}
    assert good["pause_ms"] == {
        "p50": 5.0, "p95": 5.0, "p99": 5.0, "by_kind": {"notice": {"p50": 5.0, "p95": 5.0, "p99": 5.0}},
    }  # fmt: skip
    for bad in (account((1, 2, 3)), account((1, 1, 2, 3, 4)), account((1, 2, 3, 4), text="abXd")):
        assert not passed(build_certificate("sim", 1, {}, [account((1, 2, 3, 4)), bad], 1.0))
    broken = StreamOutcome("s", Output((), ""), Output((), ""), error="APIError")
    assert not passed(build_certificate("sim", 1, {}, [broken], 1.0))


def test_quantiles() -> None:
    assert quantile([], 0.5) is None
    assert [quantile([1, 2, 3, 4], share) for share in (0.5, 0.75, 0.99)] == [2, 3, 4]
