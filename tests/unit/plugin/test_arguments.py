"""What may reach an engine as the ids of an answer, and on which vLLM the plug-in does anything at all."""

from __future__ import annotations

from typing import Any

import pytest

import synkti_engine
from node_agent.core import continuation
from node_agent.core.completions import OWN_ARGUMENTS
from synkti_engine import arguments
from synkti_engine.arguments import BadArguments, check, ids_in, unfinished

RIGHT = {"vocabulary": 100, "max_tokens": 10, "room": 50, "choices": 1}


def test_both_sides_mean_the_same_arguments_and_clients_may_send_none_of_them() -> None:
    names = (arguments.RESUME_IDS, arguments.FORCED_IDS, arguments.APART)
    assert names == (continuation.RESUME_IDS, continuation.FORCED_IDS, continuation.APART)
    assert all(name.startswith(OWN_ARGUMENTS) for name in names)


@pytest.mark.parametrize("value", ["1,2", [1, "2"], [1.0], [-1], [True], {"a": 1}, 7], ids=repr)
def test_what_is_no_list_of_ids_is_refused(value: Any) -> None:
    with pytest.raises(BadArguments, match="synkti_resume_ids must be a list of token ids"):
        ids_in({arguments.RESUME_IDS: value}, arguments.RESUME_IDS)


def test_no_argument_is_no_ids() -> None:
    assert ids_in(None, arguments.RESUME_IDS) == []
    assert ids_in({"other": [1]}, arguments.RESUME_IDS) == []
    assert ids_in({arguments.RESUME_IDS: [0, 99]}, arguments.RESUME_IDS) == [0, 99]


def test_ids_that_fit_are_let_through() -> None:
    check([0, 99, *range(7)], **RIGHT)


@pytest.mark.parametrize(
    ("ids", "other", "why"),
    [
        ([5, 100], {}, "id 100 is not in the vocabulary, which has 100"),
        (list(range(10)), {}, "10 ids leave nothing to generate of max_tokens=10"),
        (list(range(9)), {"room": 9}, "9 ids leave nothing to generate of the context's 9"),
        ([5], {"choices": 2}, "one choice goes on at a time, and the request has n=2"),
    ],
)
def test_ids_that_would_end_an_engine_or_leave_nothing_to_do_are_refused(
    ids: list[int], other: dict[str, int], why: str
) -> None:
    with pytest.raises(BadArguments, match=why):
        check(ids, **{**RIGHT, **other})


def test_an_end_is_left_out_with_what_is_behind_it() -> None:
    assert unfinished([5, 6, 2], {2, 3}) == [5, 6]
    assert unfinished([5, 3, 6], {2, 3}) == [5]
    assert unfinished([5, 6], {2}) == [5, 6]
    assert unfinished([], {2}) == []


@pytest.mark.parametrize(
    ("version", "declines"), [("0.32.0", False), ("0.32.0+cpu", False), ("0.32.1", True), ("0.33.0", True)]
)
def test_it_declines_on_a_vllm_that_it_was_not_tested_with(version: str, declines: bool) -> None:
    why = synkti_engine.refusal(version)
    assert (why is not None) is declines
    assert why is None or version in why
