"""Membership between nodes with keys of their own, on virtual time: joins, partitions, rotations, nodes shut out."""

from __future__ import annotations

import random

import pytest

from node_agent.core.common.cluster_keys import ClusterKeySet, cluster_key
from node_agent.core.membership import Received
from node_agent.core.membership.wire.messages import Header, MessageKind, MessageMac, write_header
from node_agent.core.membership.wire.updates import write_dead, write_left
from node_agent.core.node.status import Liveness
from sim.fleet import KEY
from sim.host import Host
from sim.keyed_fleet import KeyedFleet
from tests.scenarios.fleets import agree, all_see, liveness_at, serving, wait_until_agreed

OLD, NEW = cluster_key(KEY), cluster_key(b"the next key of the fleet")


def joined(count: int, seed: int = 1) -> tuple[KeyedFleet, list[Host]]:
    """A fleet whose nodes have discovered each other by EC2's tags alone."""
    fleet = KeyedFleet(seed)
    hosts = fleet.boot(count)
    fleet.list_everywhere()
    wait_until_agreed(fleet, hosts, 20.0)
    return fleet, hosts


def settle(fleet: KeyedFleet, hosts: list[Host], within_s: float) -> None:
    """Wait until all agree, while each reads the tags now and then."""
    began = fleet.scheduler.now
    while not agree(hosts):
        assert fleet.scheduler.now - began < within_s
        fleet.pass_time(2.0)
        fleet.list_everywhere()


@pytest.mark.parametrize("count", [2, 5, 20])
def test_nodes_that_ec2_vouches_for_become_a_fleet(count: int) -> None:
    fleet, hosts = joined(count)
    fleet.pass_time(20)
    assert agree(hosts)
    assert not any(change.after in (Liveness.SUSPECT, Liveness.DEAD) for _, _, change in fleet.changes)


def test_a_later_node_joins_a_restarted_one_returns_and_a_dead_one_is_found() -> None:
    fleet, hosts = joined(5)
    late = fleet.make()
    fleet.list_everywhere()
    settle(fleet, [*hosts, late], 30.0)
    again = fleet.restart(hosts[0])
    settle(fleet, [again, *hosts[1:], late], 30.0)
    hosts[1].terminate()
    fleet.pass_time(15)
    assert all_see([again, *hosts[2:], late], hosts[1], Liveness.DEAD)


def test_two_sides_of_a_partition_become_one_fleet_again() -> None:
    fleet, hosts = joined(8)
    fleet.split(hosts[:4], hosts[4:])
    fleet.pass_time(60)
    assert all_see(hosts[:4], hosts[5], Liveness.DEAD)
    fleet.split()
    settle(fleet, hosts, 90.0)


def forge(sender: Host, receiver: Host, updates: bytes, number: int, key: bytes = KEY) -> bytes:
    """A message in the name of `sender`, by one that has the cluster's key and knows both boot ids."""
    header = Header(MessageKind.GOSSIP, sender.boot_id, receiver.boot_id, number, 0)
    return MessageMac(key).append(write_header(header) + updates)


def test_no_node_speaks_in_the_name_of_another() -> None:
    _, (one, two, three, *_) = joined(5)
    incarnation = two.membership.status.incarnation
    for updates in (write_left(two.boot_id, incarnation), write_dead(two.boot_id, incarnation, three.boot_id)):
        one.handle(Received(one.clock, forge(two, one, updates, 10**6)))
        one.handle(Received(one.clock, forge(three, one, updates, 10**6)))
    assert liveness_at(one, two) is Liveness.ALIVE
    assert one.membership.rejected["mac"] == 4


def test_a_stranger_with_the_clusters_key_is_a_member_and_serves_nobody() -> None:
    fleet, hosts = joined(4)
    stranger = fleet.make()
    stranger.tagged(fleet.tags())
    for host in hosts:
        fleet.vouched[host.instance_id].update([fleet._tag(each) for each in hosts])
    fleet.pass_time(20)
    assert all_see(hosts, stranger, Liveness.ALIVE)
    assert all(stranger.instance_id not in serving(host) for host in hosts)


# rotation


def rotate(fleet: KeyedFleet, hosts: list[Host], keys: ClusterKeySet, seed: int) -> None:
    """Each node reads the document within forty seconds, and EC2's tags every ten."""
    draw = random.Random(seed)
    reads = sorted((draw.uniform(0, 40), host.instance_id) for host in hosts)
    began = fleet.scheduler.now
    while reads or fleet.scheduler.now - began < 50:
        fleet.pass_time(2.0)
        while reads and reads[0][0] <= fleet.scheduler.now - began:
            fleet.keys[reads.pop(0)[1]].replace(keys)
        if int(fleet.scheduler.now - began) % 10 < 2:
            fleet.list_everywhere()


@pytest.mark.parametrize("seed", [1, 2])
def test_a_rotation_costs_no_member_a_suspicion(seed: int) -> None:
    fleet, hosts = joined(5, seed)
    fleet.changes.clear()
    before = [host.membership.rejected["mac"] for host in hosts]
    for keys in (ClusterKeySet(OLD, next=NEW), ClusterKeySet(NEW, previous=OLD), ClusterKeySet(NEW)):
        rotate(fleet, hosts, keys, seed)
    assert fleet.changes == []
    assert agree(hosts)
    assert [host.membership.rejected["mac"] for host in hosts] == before


def test_a_node_that_reads_no_step_stays_until_the_old_key_is_gone_and_then_stands_alone() -> None:
    fleet, hosts = joined(5)
    fleet.changes.clear()
    for keys in (ClusterKeySet(OLD, next=NEW), ClusterKeySet(NEW, previous=OLD)):
        rotate(fleet, hosts[1:], keys, 1)
    assert fleet.changes == [], "the others sign for it with the key that it has"
    rotate(fleet, hosts[1:], ClusterKeySet(NEW), 1)
    rest = hosts[1:]
    assert all_see(rest, hosts[0], Liveness.DEAD)
    for host in rest:
        names = fleet.vouched[host.instance_id].foreign_nodes(fleet.keys[host.instance_id].keys.key_ids)
        assert names == [hosts[0].instance_id], "reported, not silent"


def test_a_node_joins_in_the_middle_of_a_rotation() -> None:
    for before, keys in (
        (ClusterKeySet(OLD), ClusterKeySet(OLD, next=NEW)),
        (ClusterKeySet(OLD, next=NEW), ClusterKeySet(NEW, previous=OLD)),
        (ClusterKeySet(NEW, previous=OLD), ClusterKeySet(NEW)),
    ):
        fleet, hosts = joined(4)
        for host in hosts:
            fleet.keys[host.instance_id].replace(before)
        fleet.list_everywhere()
        late = fleet.make()
        fleet.keys[late.instance_id].replace(keys)
        fleet.list_everywhere()
        settle(fleet, [*hosts, late], 60.0)


# nodes that are shut out


def test_a_node_that_is_shut_out_is_gone_at_the_next_listing_and_stays_gone() -> None:
    fleet, hosts = joined(5)
    excluded, *rest = hosts
    fleet.shut_out.add(excluded.instance_id)
    fleet.list_everywhere()
    assert all_see(rest, excluded, Liveness.LEFT)
    assert all(excluded.instance_id not in serving(host) for host in rest)
    again = fleet.restart(excluded)
    fleet.list_everywhere()
    fleet.pass_time(180)
    for host in rest:
        assert excluded.instance_id not in serving(host)
        assert host.membership.members.get(excluded.instance_id) is None
        assert host.membership.rejected["shut out"] > 0
    fleet.shut_out.clear()
    fleet.list_everywhere()
    settle(fleet, [again, *rest], 180.0)
