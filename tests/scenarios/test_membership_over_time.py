"""Membership on virtual time where nodes join, restart, and are discovered by tags."""

from __future__ import annotations

import pytest

from node_agent.contract.states import NodeState
from node_agent.core.node.status import Liveness, TaggedNode
from sim.fleet import Fleet
from tests.scenarios.fleets import agree, all_see, liveness_at, stable_fleet, wait_until_agreed

# tags


def test_a_node_discovered_by_tags_only_joins_and_becomes_known_to_all() -> None:
    fleet = stable_fleet(10)
    first, *_ = fleet.hosts.values()
    newcomer = fleet.make()  # it has not read any tag itself
    first.tagged(fleet.tags())
    fleet.pass_time(4)
    assert agree(list(fleet.hosts.values()))
    assert liveness_at(newcomer, first) is Liveness.ALIVE


def test_a_node_known_by_gossip_only_stays_a_member_while_it_is_alive() -> None:
    fleet = stable_fleet(5)
    untagged, *rest = fleet.hosts.values()
    for host in rest:
        host.tagged([tag for tag in fleet.tags() if tag.instance_id != untagged.instance_id])
    fleet.pass_time(120)
    assert agree([untagged, *rest])


def test_a_dead_node_that_ec2_still_lists_does_not_become_a_member_again() -> None:
    fleet = stable_fleet(5)
    gone, *rest = fleet.hosts.values()
    gone.terminate()
    fleet.pass_time(10)
    for _ in range(5):
        for host in rest:
            host.tagged(fleet.tags(gone.instance_id))
        fleet.pass_time(30)
        assert all_see(rest, gone, Liveness.DEAD)
    for host in rest:
        host.tagged(fleet.tags())
    fleet.pass_time(1)
    assert all_see(rest, gone, None)
    for host in rest:  # and once more, as eventually consistent as ever
        host.tagged(fleet.tags(gone.instance_id))
    fleet.pass_time(30)
    assert all_see(rest, gone, None)


def test_an_instance_with_the_tag_gone_is_not_probed_to_join() -> None:
    fleet = stable_fleet(3)
    host = next(iter(fleet.hosts.values()))
    host.tagged([TaggedNode("i-other", "10.9.9.9:8001", NodeState.GONE)])
    assert host.membership.stats["join_candidates"] == 0


def test_twenty_nodes_that_boot_at_once_agree_within_seconds() -> None:
    fleet = stable_fleet(10)
    booted = fleet.boot(20)
    assert wait_until_agreed(fleet, list(fleet.hosts.values()), 12) < 12
    assert all(host.membership.discovery_done for host in booted)


def test_the_first_nodes_of_a_fleet_find_each_other() -> None:
    fleet = Fleet(1)
    for _ in range(3):
        fleet.boot()
        fleet.pass_time(0.3)
    for host in fleet.hosts.values():
        host.tagged(fleet.tags())
    assert wait_until_agreed(fleet, list(fleet.hosts.values()), 5) < 5


def test_an_outage_of_the_ec2_api_changes_no_membership() -> None:
    fleet = stable_fleet(10)
    for host in fleet.hosts.values():
        fleet.keep_looking(host)
    fleet.api_is_up = False
    fleet.pass_time(300)
    assert fleet.changes == []
    assert not any(host.membership.discovery_done for host in fleet.hosts.values())
    assert agree(list(fleet.hosts.values()))


# restarts and wrong clocks


@pytest.mark.parametrize("set_back_s", [0.0, 5 * 3600.0])
def test_a_restarted_agent_replaces_its_old_incarnation_also_with_its_clock_set_back(set_back_s: float) -> None:
    fleet = stable_fleet(8)
    old, *rest = fleet.hosts.values()
    new = fleet.restart(old, set_back_s)
    fleet.pass_time(6)
    for host in rest:
        member = host.membership.members[new.instance_id]
        assert member.boot_id == new.boot_id
        assert member.incarnation > old.membership.status.incarnation
    assert agree([new, *rest])


def test_a_clock_set_back_is_compensated_where_only_some_nodes_know_the_old_incarnation() -> None:
    fleet = stable_fleet(6)
    old, *rest = fleet.hosts.values()
    younger = fleet.boot(4)
    for host in younger:
        host.side = 1
    old.terminate()
    fleet.pass_time(10)
    for host in younger:
        host.side = 0
    new = fleet.restart(old, clock_set_back_s=7200)
    fleet.pass_time(40)
    assert agree([new, *rest, *younger])
    assert len({host.membership.members[new.instance_id].incarnation for host in (*rest, *younger)}) == 1


def test_a_restarted_agent_rejoins_after_it_left() -> None:
    fleet = stable_fleet(5)
    old, *rest = fleet.hosts.values()
    old.leave()
    fleet.pass_time(2)
    new = fleet.restart(old, clock_set_back_s=3600)
    wait_until_agreed(fleet, [new, *rest], 15)


@pytest.mark.parametrize("jump_s", [3600.0, -3600.0])
def test_a_clock_jump_causes_no_suspicion(jump_s: float) -> None:
    fleet = stable_fleet(10)
    jumper, *rest = fleet.hosts.values()
    jumper.clock_offset_s += jump_s
    fleet.pass_time(30)
    assert [change for _, _, change in fleet.changes if change.after is Liveness.DEAD] == []
    assert agree([jumper, *rest])


def test_a_probe_in_progress_while_its_node_was_paused_causes_no_suspicion() -> None:
    """Its answer may have been dropped with a full socket buffer. Only a probe during which the node ran counts."""
    fleet = stable_fleet(2)
    a, b = fleet.hosts.values()
    b.terminate()
    while not a.membership.stats["probes"]:
        fleet.pass_time(0.05)
    a.freeze()
    fleet.pass_time(60)
    a.resume()
    fleet.pass_time(0.6)  # the old probe would have ended by now
    assert fleet.changes == []
    fleet.pass_time(2)
    assert liveness_at(a, b) is not Liveness.ALIVE


def test_a_node_paused_for_a_minute_suspects_no_member_and_rejoins() -> None:
    fleet = stable_fleet(10)
    stopped, *rest = fleet.hosts.values()
    stopped.freeze()
    fleet.pass_time(60)
    assert all_see(rest, stopped, Liveness.DEAD)
    thawed_at = fleet.scheduler.now
    stopped.resume()
    wait_until_agreed(fleet, [stopped, *rest], 10)
    own = [change for at, by, change in fleet.changes if by == stopped.instance_id and at >= thawed_at]
    assert [change for change in own if change.after is Liveness.DEAD] == []
