"""Test the encoding of nodes' status and load."""

from __future__ import annotations

import pytest

from node_agent.core.node.status import Load, load_from_header, load_to_header


def test_a_load_round_trips_through_one_line_and_nonsense_is_none() -> None:
    load = Load(7, 2, 0.25, 0.0125, 1_500.0)
    assert load_from_header(load_to_header(load)) == load
    for nonsense in (b"", b"7 2", b"a b c d e", b"1 2 3 4 5 6"):
        with pytest.raises(ValueError, match=r"invalid literal|could not convert|not enough|too many"):
            load_from_header(nonsense)
