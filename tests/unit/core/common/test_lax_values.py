"""Test that fields are parsed as by pydantic's lax mode, which vLLM's server uses."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from node_agent.core.common.lax_values import read_bool, read_float, read_int

READERS: dict[type, Callable[[object], object]] = {bool: read_bool, int: read_int, float: read_float}
ADAPTERS: dict[type, TypeAdapter[Any]] = {kind: TypeAdapter(kind) for kind in READERS}
WORDS = [
    "true",
    "FALSE",
    "no",
    "Off",
    "f",
    "N",
    "y",
    "1",
    "0",
    "on",
    "5",
    "3.0",
    "+4",
    "1_000",
    " 7 ",
    "-2",
    "1e3",
    ".5",
]
TEXTS = st.sampled_from(WORDS) | st.text("0123456789+-_. eExyntrufalsof\t\n", max_size=8) | st.text(max_size=4)
NO_VALUES: st.SearchStrategy[object] = st.sampled_from([None, [], {}])
VALUES: st.SearchStrategy[object] = NO_VALUES | st.booleans() | st.integers() | st.floats() | TEXTS


def both(kind: type, value: object) -> tuple[object, object]:
    """Return the values parsed here and by pydantic; None where it is rejected."""
    ours: object = None
    theirs: object = None
    try:
        ours = READERS[kind](value)
    except ValueError:
        ours = None
    try:
        theirs = ADAPTERS[kind].validate_python(value)
    except ValidationError:
        theirs = None
    return ours, theirs


@given(st.sampled_from([bool, int, float]), VALUES)
def test_values_are_read_as_the_engine_reads_them(kind: type, value: object) -> None:
    ours, theirs = both(kind, value)
    assert ours is None or (ours == theirs and type(ours) is type(theirs))


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("kind", READERS, ids=lambda kind: kind.__name__)
def test_booleans_are_read_or_refused_as_the_engine_does(kind: type, word: str) -> None:
    ours, theirs = both(kind, word)
    assert ours == theirs


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (int, 3.0),
        (int, -0.0),
        (int, True),
        (int, 1.5),
        (int, math.inf),
        (int, math.nan),
        (int, 1e19),
        (int, 10**30),
        (bool, 1),
        (bool, 0.0),
        (bool, 2),
        (bool, 0.5),
        (float, 3),
        (float, True),
        (float, 10**400),
        (float, None),
    ],
    ids=str,
)
def test_numbers_are_read_or_refused_as_the_engine_does(kind: type, value: object) -> None:
    ours, theirs = both(kind, value)
    assert ours == theirs
