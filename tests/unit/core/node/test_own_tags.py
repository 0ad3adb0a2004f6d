"""A node writes its tags again where EC2 lists another state for some seconds, as after a drill."""

from __future__ import annotations

from dataclasses import replace

import pytest

from node_agent.contract.states import NodeState
from node_agent.core.node.own_tags import STATE_SETTLES_S, OwnTagCheck
from node_agent.core.node.status import NodeStatus, Pool, TaggedNode

KEY, ADDRESS = "A" * 44, "10.0.0.1:8001"
STATUS = NodeStatus(
    "i-0a", ADDRESS, "10.0.0.1:8000", NodeState.READY, Pool("z", "t"), "m", incarnation=1, public_key=KEY
)
LISTED = TaggedNode("i-0a", ADDRESS, NodeState.READY, KEY)
DRILLED = replace(LISTED, state=NodeState.DRAINING)


@pytest.mark.parametrize("state", [NodeState.DRAINING, NodeState.AT_RISK, None])
def test_another_state_counts_once_it_has_stayed(state: NodeState | None) -> None:
    check, listed = OwnTagCheck(), replace(LISTED, state=state)
    assert check.difference(listed, STATUS, 100.0) is None
    assert check.difference(listed, STATUS, 100.0 + STATE_SETTLES_S - 0.1) is None, "IMDS may still be read"
    assert "instead of ready" in (check.difference(listed, STATUS, 100.0 + STATE_SETTLES_S) or "")
    assert check.difference(listed, STATUS, 100.1 + STATE_SETTLES_S) is None, "the write is under way"


def test_a_difference_that_ended_or_changed_begins_anew() -> None:
    check = OwnTagCheck()
    assert check.difference(DRILLED, STATUS, 0.0) is None
    assert check.difference(LISTED, STATUS, 20.0) is None
    assert check.difference(DRILLED, STATUS, 40.0) is None
    assert check.difference(replace(LISTED, state=NodeState.GONE), STATUS, 60.0) is None


@pytest.mark.parametrize("state", [NodeState.DRAINING, NodeState.GONE])
def test_a_node_that_leaves_writes_nothing_again(state: NodeState) -> None:
    check, status = OwnTagCheck(), replace(STATUS, state=state)
    assert [check.difference(LISTED, status, at) for at in (0.0, 100.0)] == [None, None]


@pytest.mark.parametrize("listed", [replace(LISTED, public_key=None), replace(LISTED, peer_address="10.0.0.9:8001")])
def test_another_key_or_address_counts_at_once(listed: TaggedNode) -> None:
    assert OwnTagCheck().difference(listed, STATUS, 0.0) == "another key or address"
