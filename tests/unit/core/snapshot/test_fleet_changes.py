"""What a node's timeline has of the fleet: one line for each change, none for what was there before."""

from __future__ import annotations

from dataclasses import replace

import pytest

from node_agent.contract.states import NodeState
from node_agent.core.node.status import Liveness, NodeStatus, Pool
from node_agent.core.snapshot.fleet_changes import FleetChanges, NodeChange

ALIVE, SUSPECT, DEAD, LEFT = Liveness.ALIVE, Liveness.SUSPECT, Liveness.DEAD, Liveness.LEFT
NODE = NodeStatus("i-1", "h:1", "h:2", NodeState.READY, Pool("a", "t"), "m", 1)


def changes(*looks: tuple[NodeState, Liveness] | None) -> list[NodeChange]:
    """What the last of these looks finds. None: the node is not in the table."""
    fleet, found = FleetChanges(), []
    fleet.look([], 0.0)
    for at, look in enumerate(looks, 1):
        nodes = [] if look is None else [(replace(NODE, state=look[0]), look[1])]
        found = [change.change for change in fleet.look(nodes, float(at))]
    return found


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        (None, (NodeState.STARTING, ALIVE), [NodeChange.JOINED]),
        ((NodeState.STARTING, ALIVE), (NodeState.READY, ALIVE), [NodeChange.READY]),
        ((NodeState.READY, ALIVE), (NodeState.READY, ALIVE), []),
        ((NodeState.READY, ALIVE), (NodeState.AT_RISK, ALIVE), [NodeChange.AT_RISK]),
        ((NodeState.READY, ALIVE), (NodeState.DRAINING, ALIVE), [NodeChange.DRAINING]),
        ((NodeState.READY, ALIVE), (NodeState.STARTING, ALIVE), [NodeChange.STARTING]),
        ((NodeState.READY, ALIVE), (NodeState.READY, SUSPECT), [NodeChange.SUSPECT]),
        ((NodeState.READY, SUSPECT), (NodeState.READY, ALIVE), [NodeChange.RETURNED]),
        ((NodeState.READY, SUSPECT), (NodeState.READY, DEAD), [NodeChange.DEAD]),
        ((NodeState.READY, DEAD), (NodeState.READY, ALIVE), [NodeChange.RETURNED]),
        ((NodeState.READY, SUSPECT), (NodeState.DRAINING, ALIVE), [NodeChange.DRAINING]),
        ((NodeState.DRAINING, ALIVE), (NodeState.DRAINING, LEFT), [NodeChange.LEFT]),
        ((NodeState.DRAINING, ALIVE), (NodeState.GONE, ALIVE), [NodeChange.LEFT]),
        ((NodeState.GONE, ALIVE), (NodeState.GONE, LEFT), []),
        ((NodeState.READY, DEAD), None, []),
    ],
)
def test_a_change_of_a_node(
    before: tuple[NodeState, Liveness] | None, now: tuple[NodeState, Liveness] | None, expected: list[NodeChange]
) -> None:
    assert changes(before, now) == expected


def test_the_first_look_reports_nothing() -> None:
    fleet = FleetChanges()
    assert fleet.look([(NODE, ALIVE)], 5.0) == []
    assert fleet.changed_at == {"i-1": 5.0}


def test_the_time_of_a_change_is_kept_until_the_node_is_forgotten() -> None:
    fleet = FleetChanges()
    fleet.look([(NODE, ALIVE)], 5.0)
    fleet.look([(NODE, ALIVE)], 6.0)
    assert fleet.changed_at == {"i-1": 5.0}
    (changed,) = fleet.look([(NODE, DEAD)], 7.0)
    assert (changed.status, changed.state) == (NODE, NodeState.READY)
    assert fleet.changed_at == {"i-1": 7.0}
    fleet.look([], 8.0)
    assert fleet.changed_at == {}
