"""What may reach an engine as the ids of an answer, and on which vLLM the plug-in does anything at all."""

from __future__ import annotations

from typing import Any

import pytest

import synkti_engine
from node_agent.core.continuation import requests
from node_agent.core.openai.generation_request import PER_TOKEN
from node_agent.core.openai.request_body import INTERNAL_ARG_PREFIX
from synkti_engine import arguments
from synkti_engine.arguments import BadArguments, begun, check, ids_in, per_token

RIGHT = {"vocabulary": 100, "max_tokens": 10, "room": 50, "choices": 1}


def test_agent_and_plugin_use_the_same_arguments_and_clients_may_send_none() -> None:
    names = (arguments.RESUME_IDS, arguments.FORCED_IDS, arguments.PER_ID)
    assert names == (requests.RESUME_IDS, requests.FORCED_IDS, PER_TOKEN)
    assert all(name.startswith(INTERNAL_ARG_PREFIX) for name in (*names, arguments.EMIT_IDS))


@pytest.mark.parametrize("value", ["1,2", [1, "2"], [1.0], [-1], [True], {"a": 1}, 7], ids=repr)
def test_an_invalid_list_of_ids_is_refused(value: Any) -> None:
    with pytest.raises(BadArguments, match="synkti_resume_ids must be a list of token ids"):
        ids_in({arguments.RESUME_IDS: value}, arguments.RESUME_IDS)


def test_no_argument_is_no_ids() -> None:
    assert ids_in(None, arguments.RESUME_IDS) == []
    assert ids_in({"other": [1]}, arguments.RESUME_IDS) == []
    assert ids_in({arguments.RESUME_IDS: [0, 99]}, arguments.RESUME_IDS) == [0, 99]


def test_valid_ids_are_accepted() -> None:
    check([0, 99, *range(7)], **RIGHT)
    check(list(range(10)), **RIGHT)
    check(list(range(9)), **{**RIGHT, "room": 9})


@pytest.mark.parametrize(
    ("ids", "other", "why"),
    [
        ([5, 100], {}, "id 100 is not in the vocabulary, which has 100"),
        (list(range(11)), {}, "11 ids are more than max_tokens=10"),
        (list(range(9)), {"room": 8}, "9 ids are more than the context's 8"),
        ([5], {"choices": 2}, "one choice is continued at a time, and the request has n=2"),
    ],
)
def test_ids_outside_the_vocabulary_or_beyond_the_length_are_refused(
    ids: list[int], other: dict[str, int], why: str
) -> None:
    with pytest.raises(BadArguments, match=why):
        check(ids, **{**RIGHT, **other})


@pytest.mark.parametrize(
    ("ids", "behind", "last"),
    [
        ([], [], None),
        ([5, 6], [5, 6], None),
        ([5, 6, 2], [5, 6], 2),
        ([2], [], 2),
        ([5, 3, 6], [5], None),
        ([5, 3, 2], [5], None),
        ([3, 3], [], None),
        ([5, 6, 7, 8], [5, 6, 7], 8),
        ([5, 6, 7, 2], [5, 6, 7], 2),
        ([5, 2, 7, 8], [5], None),
    ],
    ids=repr,
)
def test_a_finished_answer_generates_its_last_id_again(ids: list[int], behind: list[int], last: int | None) -> None:
    """2 and 3 end an answer, and so does its fourth id. An end in the middle is sampled again."""
    assert begun(ids, {2, 3}, 4) == (behind, last)


def test_with_ignore_eos_an_answer_ends_only_by_its_length() -> None:
    assert begun([5, 2], (), 3) == ([5, 2], None)
    assert begun([2, 5, 2], (), 3) == ([2, 5], 2)


@pytest.mark.parametrize(
    ("extra", "apart"),
    [
        (None, False),
        ({}, False),
        ({arguments.RESUME_IDS: [1]}, False),
        ({arguments.PER_ID: 0, arguments.EMIT_IDS: 0}, False),
        ({arguments.PER_ID: 1}, True),
        ({arguments.EMIT_IDS: 1}, True),
    ],
    ids=repr,
)
def test_ids_are_marked_apart_for_parsers_and_for_clients_that_get_ids(
    extra: dict[str, Any] | None, apart: bool
) -> None:
    assert per_token(extra) is apart


@pytest.mark.parametrize(
    ("version", "declines"), [("0.32.0", False), ("0.32.0+cpu", False), ("0.32.1", True), ("0.33.0", True)]
)
def test_the_plugin_declines_an_untested_vllm_version(version: str, declines: bool) -> None:
    why = synkti_engine.refusal(version)
    assert (why is not None) is declines
    assert why is None or version in why
