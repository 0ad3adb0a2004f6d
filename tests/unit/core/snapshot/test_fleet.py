"""The nodes of a snapshot: those that count, and those whose loss is fresh; figures as the nodes reported them."""

from __future__ import annotations

from dataclasses import replace

from node_agent.contract.states import NodeState
from node_agent.core.membership.member_table import Member
from node_agent.core.node.status import IDLE, Liveness, Load, NodeStatus, Pool
from node_agent.core.snapshot.fleet import SHOWN_DEAD_S, node_row, peer_rows

STATUS = NodeStatus("i-1", "10.0.0.1:8001", "10.0.0.1:8000", NodeState.READY, Pool("a", "g5.xlarge"), "m", 1)
NOW = 1_000.0


def member(name: str, liveness: Liveness = Liveness.ALIVE, *, is_vouched: bool = True) -> Member:
    found = Member(b"boot--", replace(STATUS, instance_id=name), 0.0, None)
    found.liveness, found.is_vouched = liveness, is_vouched
    return found


def shown(*members: Member, changed_at: dict[str, float] | None = None) -> list[str]:
    return [row["id"] for row in peer_rows(members, changed_at or {}, NOW)]


def test_a_row_has_the_nodes_own_figures() -> None:
    status = replace(STATUS, deadline=1_100)
    row = node_row(status, Load(3, 1, 0.12345, 0.0213, 900.0), Liveness.ALIVE, 990.04)
    assert row == {
        "id": "i-1", "zone": "a", "type": "g5.xlarge", "state": "ready", "liveness": "alive", "model": "m",
        "address": "10.0.0.1:8000", "running": 3, "waiting": 1, "kv_use": 0.123, "token_ms": 21.3, "since": 990.0,
        "deadline": 1_100,
    }  # fmt: skip
    assert node_row(STATUS, IDLE, Liveness.ALIVE, 0.0)["deadline"] is None


def test_present_nodes_are_shown_and_those_that_ec2_does_not_vouch_for_are_not() -> None:
    assert shown(
        member("i-1"), member("i-2", Liveness.SUSPECT), member("i-3", is_vouched=False), member("i-4", Liveness.LEFT)
    ) == ["i-1", "i-2"]


def test_a_dead_node_is_shown_for_a_while() -> None:
    dead = member("i-1", Liveness.DEAD)
    assert shown(dead, changed_at={"i-1": NOW - SHOWN_DEAD_S + 1}) == ["i-1"]
    assert shown(dead, changed_at={"i-1": NOW - SHOWN_DEAD_S}) == []
