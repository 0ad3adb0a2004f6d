"""Test placement: the order of the candidates for a replica."""

from __future__ import annotations

from node_agent.contract.states import NodeState
from node_agent.core.node.status import NodeStatus, Pool
from node_agent.core.replication.placement import RANKS, Candidates, choose_replicas, rendezvous_rank


def status(number: int, zone: str = "a", state: NodeState = NodeState.READY) -> NodeStatus:
    return NodeStatus(f"i-{number}", f"h{number}:1", f"h{number}:2", state, Pool(zone, "g5.xlarge"), "m", 1)


def test_replicas_are_of_the_first_ranks_and_each_of_another_pool_where_there_are_any() -> None:
    nodes = [status(n, "abc"[n % 3]) for n in range(20)]
    near = rendezvous_rank("s", nodes)[:RANKS]
    pools = {node.pool for node in near}
    assert len(pools) == 3, "a rank of fewer pools would prove less"
    for entry in pools:
        chosen = choose_replicas("s", nodes, [entry])
        assert {node.instance_id for node in chosen[:RANKS]} == {node.instance_id for node in near}
        assert len({entry, chosen[0].pool, chosen[1].pool}) == 3


def test_the_engines_pool_is_avoided_next_and_pools_that_hold_a_copy_count_as_taken() -> None:
    a, b, c = (status(n, zone) for n, zone in enumerate("abc"))
    assert choose_replicas("s", [a, b, c], [a.pool], engine=b.pool)[0] is c
    assert choose_replicas("s", [a, b, c], [a.pool, c.pool], engine=b.pool)[0] is b


def test_replicas_that_do_not_acknowledge_come_after_all_others() -> None:
    nodes = [status(n) for n in range(9)]
    first = choose_replicas("s", nodes, [])[0].instance_id
    chosen = [node.instance_id for node in choose_replicas("s", nodes, [], slow={first})]
    assert chosen[-1] == first
    assert sorted(chosen) == sorted(node.instance_id for node in nodes)


def test_nodes_at_risk_come_last_and_nodes_that_leave_never() -> None:
    nodes = [status(0, state=NodeState.AT_RISK), status(1), status(2, state=NodeState.DRAINING)]
    assert [node.instance_id for node in choose_replicas("s", nodes, [])] == ["i-1", "i-0"]


def test_candidates_are_ranked_as_replicas_are_and_replicas_are_none() -> None:
    nodes = [status(n, "abc"[n % 3]) for n in range(9)]
    own = nodes[0].pool
    candidates = Candidates(own, nodes, frozenset())
    ranked = [node.instance_id for node in choose_replicas("s", nodes, [own])]
    assert candidates.for_stream("s", [], None) == ranked
    assert candidates.for_copies("s", set()) == ranked
    first = ranked[0]
    assert sorted([*candidates.for_stream("s", [first], None), first]) == sorted(ranked)
    assert sorted([*candidates.for_copies("s", {first}), first]) == sorted(ranked)


def test_a_stream_whose_replicas_are_all_peers_has_no_candidate() -> None:
    nodes = [status(0), status(1), status(2, state=NodeState.DRAINING)]
    candidates = Candidates(nodes[0].pool, nodes, frozenset())
    assert candidates.for_stream("s", ["i-0", "i-1"], None) == []
    assert candidates.for_copies("s", {"i-0", "i-1", "i-2"}) == []
    assert candidates.eligible == {"i-0", "i-1"}
