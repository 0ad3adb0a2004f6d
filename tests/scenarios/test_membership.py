"""Membership on virtual time: probing, suspicion, dissemination; real state machines on a simulated network."""

from __future__ import annotations

from statistics import median

import pytest

from node_agent.contract.states import NodeState
from node_agent.core.failure.loss import LossReason
from node_agent.core.node.status import Liveness, Load
from sim.network import NetworkConditions
from tests.scenarios.fleets import agree, all_see, changes, liveness_at, serving, stable_fleet

# probing


def test_a_node_that_answers_probes_is_never_suspected() -> None:
    fleet = stable_fleet(20)
    fleet.pass_time(300)
    assert fleet.changes == []
    assert agree(list(fleet.hosts.values()))


def test_every_member_is_probed_exactly_once_per_round() -> None:
    """SWIM's round-robin: any single node probes a silent one within one round."""
    fleet = stable_fleet(2)
    lonely, gone = fleet.hosts.values()
    for host in (lonely, gone):
        assert liveness_at(lonely, host) is Liveness.ALIVE or host is lonely
    gone.terminate()
    began = fleet.scheduler.now
    fleet.pass_time(8)
    (at, _, _), *_ = changes(fleet, gone, Liveness.SUSPECT)
    assert at - began <= 2.0


def test_a_vanished_node_becomes_suspect_and_then_dead_at_every_node() -> None:
    fleet = stable_fleet(10)
    gone, *rest = fleet.hosts.values()
    gone.terminate()
    fleet.pass_time(0.5)
    assert all_see(rest, gone, Liveness.ALIVE)
    fleet.pass_time(9)
    assert all_see(rest, gone, Liveness.DEAD)
    order = [change.after for _, by, change in fleet.changes if by == rest[0].instance_id]
    assert order == [Liveness.SUSPECT, Liveness.DEAD]


@pytest.mark.parametrize("loss", [0.0, 0.05])
def test_ten_nodes_exclude_a_dead_one_within_six_seconds(loss: float) -> None:
    suspected, dead = [], []
    for seed in range(40):
        fleet = stable_fleet(10, seed, NetworkConditions(loss=loss))
        gone = fleet.hosts["i-00000000000000003"]
        began = fleet.scheduler.now
        gone.terminate()
        fleet.pass_time(15)
        suspected += [at - began for at, _, _ in changes(fleet, gone, Liveness.SUSPECT, began)]
        dead += [at - began for at, _, _ in changes(fleet, gone, Liveness.DEAD, began)]
    assert len(dead) == 40 * 9
    assert max(suspected) < 6.0  # from then on no node routes to it
    assert sorted(dead)[int(0.95 * len(dead))] < 6.0
    assert median(dead) < 5.0


def test_indirect_probes_keep_a_node_alive_that_one_peer_cannot_reach() -> None:
    fleet = stable_fleet(6)
    a, b, *_ = fleet.hosts.values()
    fleet.network.cut_links |= {(a.address, b.address), (b.address, a.address)}
    fleet.pass_time(120)
    assert fleet.changes == []


def test_a_node_that_receives_nothing_extends_its_timeouts_and_kills_no_member() -> None:
    """Lifeguard: it suspects all others, they refute, and suspicions without confirmation have long timeouts."""
    fleet = stable_fleet(12)
    deaf, *rest = fleet.hosts.values()
    fleet.network.cut_links |= {(host.address, deaf.address) for host in rest}
    fleet.pass_time(4)
    assert deaf.membership.stats["health"] > 0
    fleet.pass_time(30)
    for host in rest:
        assert not changes(fleet, host, Liveness.DEAD) or all(
            by == deaf.instance_id for _, by, _ in changes(fleet, host, Liveness.DEAD)
        )
    assert agree(rest)


def test_a_node_that_is_slow_for_a_moment_refutes_and_is_alive_again() -> None:
    fleet = stable_fleet(10)
    slow, *rest = fleet.hosts.values()
    before = slow.membership.status.incarnation
    while not changes(fleet, slow, Liveness.SUSPECT):
        slow.freeze()
        fleet.pass_time(1.5)
        slow.resume()
        fleet.pass_time(1.0)
    fleet.pass_time(3)
    assert changes(fleet, slow, Liveness.DEAD) == []
    assert all_see(rest, slow, Liveness.ALIVE)
    assert slow.membership.status.incarnation > before
    assert all(host.membership.members[slow.instance_id].incarnation > before for host in rest)


def test_a_suspect_is_not_routed_to_until_it_refutes() -> None:
    fleet = stable_fleet(5)
    a, b, *rest = fleet.hosts.values()
    b.freeze()
    a.failed(b.instance_id)
    assert liveness_at(a, b) is Liveness.SUSPECT
    assert b.instance_id not in serving(a)
    fleet.pass_time(0.6)
    assert all_see(rest, b, Liveness.SUSPECT)
    b.resume()
    fleet.pass_time(1)
    assert all(b.instance_id in serving(host) for host in (a, *rest))


# a failed request is evidence


def test_a_refused_connection_makes_a_peer_suspect_at_once_and_dead_soon_after() -> None:
    fleet = stable_fleet(10)
    crashed, first, *rest = fleet.hosts.values()
    crashed.crash()
    first.failed(crashed.instance_id)
    assert liveness_at(first, crashed) is Liveness.SUSPECT
    fleet.pass_time(1)
    assert all_see(rest, crashed, Liveness.SUSPECT)
    fleet.pass_time(3)
    assert all_see([first, *rest], crashed, Liveness.DEAD)


def test_a_peer_suspected_by_mistake_refutes_within_a_round_trip() -> None:
    fleet = stable_fleet(10)
    fine, wrong, *_ = fleet.hosts.values()
    wrong.failed(fine.instance_id)
    assert liveness_at(wrong, fine) is Liveness.SUSPECT
    fleet.pass_time(0.1)
    assert liveness_at(wrong, fine) is Liveness.ALIVE


def test_a_failed_request_triggers_a_probe_and_no_suspicion() -> None:
    fleet = stable_fleet(10)
    gone, first, *_ = fleet.hosts.values()
    gone.terminate()
    began = fleet.scheduler.now
    first.failed(gone.instance_id, LossReason.SILENCE)
    assert liveness_at(first, gone) is Liveness.ALIVE
    fleet.pass_time(1)
    assert changes(fleet, gone, Liveness.SUSPECT)[0][0] - began < 0.9
    first.failed("i-unknown")  # an unknown peer is ignored


# what nodes announce of themselves


def test_a_changed_state_reaches_every_node_within_a_second() -> None:
    fleet = stable_fleet(100)
    going, *rest = fleet.hosts.values()
    going.announce(NodeState.DRAINING)
    fleet.pass_time(1.2)
    assert not any(going.instance_id in serving(host) for host in rest)
    assert all_see(rest, going, Liveness.ALIVE)
    assert all(host.membership.members[going.instance_id].status.state is NodeState.DRAINING for host in rest)


def test_loads_reach_all_of_a_small_fleet_within_seconds() -> None:
    fleet = stable_fleet(10)
    busy, *rest = fleet.hosts.values()
    load = Load(7, 3, 0.5, 0.02, 1500.0)
    busy.set_load(load)
    fleet.pass_time(3)
    loads = [host.membership.members[busy.instance_id].load for host in rest]
    assert sum(known.in_flight == load.in_flight for known in loads) >= 8
    busy.set_load(load)  # nothing new: nothing is sent
    fleet.pass_time(5)
    assert busy.membership.stats["loads"] == 0


def test_a_node_that_leaves_is_left_everywhere_at_once_and_does_not_return_in_that_incarnation() -> None:
    fleet = stable_fleet(10)
    leaver, *rest = fleet.hosts.values()
    leaver.leave()
    fleet.pass_time(1)
    assert all_see(rest, leaver, Liveness.LEFT)
    assert changes(fleet, leaver, Liveness.SUSPECT) == []
    for host in rest:  # the tags are still there for a while
        host.tagged(fleet.tags(leaver.instance_id))
    fleet.pass_time(120)
    assert all_see(rest, leaver, None)  # only its tombstone is left
    for host in rest:
        host.tagged(fleet.tags(leaver.instance_id))
    fleet.pass_time(30)
    assert all_see(rest, leaver, None)
    assert all(host.membership.stats["join_candidates"] == 0 for host in rest)
