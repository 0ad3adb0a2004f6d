"""Membership on virtual time on bad networks, under forged or replayed datagrams, and its traffic."""

from __future__ import annotations

from statistics import median

from node_agent.contract.states import NodeState
from node_agent.core.membership import GossipConfig, Membership, Received
from node_agent.core.membership.wire.messages import MAX_DATAGRAM
from node_agent.core.node.status import Liveness, Load
from sim.fleet import Fleet
from sim.network import NetworkConditions
from tests.scenarios.fleets import (
    agree,
    all_see,
    changes,
    instance_ids,
    liveness_at,
    serving,
    stable_fleet,
    wait_until_agreed,
)

# the network


def test_repeated_late_and_reordered_datagrams_kill_no_member() -> None:
    fleet = stable_fleet(20, weather=NetworkConditions(repeated=0.3, late=0.2, late_s=0.25))
    fleet.pass_time(120)
    assert [change for _, _, change in fleet.changes if change.after is Liveness.DEAD] == []
    assert all(host.membership.rejected["replayed"] > 0 for host in fleet.hosts.values())
    assert agree(list(fleet.hosts.values()))


def test_five_percent_packet_loss_causes_few_suspicions_and_no_death() -> None:
    fleet = stable_fleet(30, weather=NetworkConditions(loss=0.05))
    fleet.pass_time(600)
    suspicions = {(change.status.instance_id, change.status.incarnation) for _, _, change in fleet.changes}
    assert len(suspicions) <= 6  # of 18,000 probes
    assert [change for _, _, change in fleet.changes if change.after is Liveness.DEAD] == []


def test_nodes_form_a_fleet_where_datagrams_are_blocked_and_streams_are_not() -> None:
    """Datagrams may be closed by a security group: every probe then falls back to a request over a stream."""
    fleet = stable_fleet(4, weather=NetworkConditions(loss=1.0))
    fleet.pass_time(60)
    assert [change for _, _, change in fleet.changes if change.after is Liveness.DEAD] == []
    assert agree(list(fleet.hosts.values()))


def test_a_partitioned_fleet_serves_on_both_sides_and_merges_afterwards() -> None:
    fleet = stable_fleet(20)
    hosts = list(fleet.hosts.values())
    left, right = hosts[:8], hosts[8:]
    fleet.split(left, right)
    fleet.pass_time(40)
    for side in (left, right):
        assert agree(side)
        assert all(serving(host) == instance_ids(side) - {host.instance_id} for host in side)
    joined_meanwhile = fleet.boot()[0]
    fleet.pass_time(10)
    healed_at = fleet.scheduler.now
    fleet.split()
    wait_until_agreed(fleet, [*hosts, joined_meanwhile], 45)
    since = [change for at, _, change in fleet.changes if at > healed_at]
    assert [change for change in since if change.after is Liveness.DEAD] == []
    # No node is out of service for having been on the other side.
    assert len([change for change in since if change.after is Liveness.SUSPECT]) <= 2


def test_a_partition_heals_without_newcomers_and_tags() -> None:
    """Without newcomers and tags, dead members are probed again now and then."""
    fleet = stable_fleet(12)
    hosts = list(fleet.hosts.values())
    fleet.split(hosts[:6], hosts[6:])
    fleet.pass_time(300)
    assert agree(hosts[:6])
    fleet.split()
    wait_until_agreed(fleet, hosts, 30)


def test_a_node_that_missed_a_refutation_receives_it_again_from_the_suspect() -> None:
    fleet = stable_fleet(6)
    accused, deaf, *rest = fleet.hosts.values()
    accused.freeze()
    fleet.pass_time(15)
    assert liveness_at(deaf, accused) is Liveness.DEAD
    deaf.side = 1  # it misses how the others take the accused back
    accused.resume()
    fleet.pass_time(0.8)
    assert all_see(rest, accused, Liveness.ALIVE)
    assert liveness_at(deaf, accused) is Liveness.DEAD
    fleet.network.cut_links |= {(host.address, deaf.address) for host in rest}
    deaf.side = 0
    fleet.pass_time(12)
    assert liveness_at(deaf, accused) is Liveness.ALIVE


def test_extra_probes_confirm_a_suspicion_before_the_probe_rotation_does() -> None:
    """Without them only later probes would confirm it, half a second later at that size."""
    took = {}
    for opinions in (0.0, 4.0):
        lasted = []
        for seed in range(8):
            fleet = Fleet(seed, config=GossipConfig(extra_probes=opinions))
            fleet.gather(40)
            fleet.pass_time(3)
            gone = fleet.hosts["i-00000000000000007"]
            gone.terminate()
            fleet.pass_time(25)
            first = min(at for at, _, _ in changes(fleet, gone, Liveness.SUSPECT))
            lasted.append(max(at for at, _, _ in changes(fleet, gone, Liveness.DEAD)) - first)
        took[opinions] = median(lasted)
    assert took[4.0] < took[0.0] - 0.3


def test_a_zone_that_fails_at_once_is_excluded_and_the_rest_stays_in_agreement() -> None:
    fleet = stable_fleet(60)
    hosts = list(fleet.hosts.values())
    gone = [host for host in hosts if host.membership.status.pool.zone == "us-east-1a"]
    rest = [host for host in hosts if host not in gone]
    for host in gone:
        host.terminate()
    wait_until_agreed(fleet, rest, 20)
    assert all(not changes(fleet, host, Liveness.DEAD) for host in rest)


def test_half_of_a_fleet_that_fails_at_once_is_excluded() -> None:
    fleet = stable_fleet(50)
    hosts = list(fleet.hosts.values())
    for host in hosts[::2]:
        host.terminate()
    wait_until_agreed(fleet, hosts[1::2], 25)


# authentication and replays


def recorded(fleet: Fleet, seconds: float) -> list[tuple[str, bytes]]:
    """Return every datagram sent during these virtual seconds: (destination, datagram)."""
    tape: list[tuple[str, bytes]] = []
    send = fleet.network.send

    def record(source, to, data):  # type: ignore[no-untyped-def] # the method that it stands in for
        tape.append((to, data))
        send(source, to, data)

    fleet.network.send = record  # type: ignore[method-assign]
    fleet.pass_time(seconds)
    fleet.network.send = send  # type: ignore[method-assign]
    return tape


def test_datagrams_replayed_a_day_later_change_nothing() -> None:
    fleet = stable_fleet(6)
    hosts = list(fleet.hosts.values())
    gone, restarted = hosts[0], hosts[1]
    tape = recorded(fleet, 20)
    gone.leave()
    tape += recorded(fleet, 3)
    again = fleet.restart(restarted)
    tape += recorded(fleet, 10)
    living = [host for host in fleet.running() if host is not gone]
    fleet.pass_time(24 * 60)  # not a whole day: nothing depends on how long ago it was
    before = len(fleet.changes)
    views = {host.instance_id: host.membership.view for host in living}
    for host in living:
        for to, data in tape:
            if to == host.address:
                host.handle(Received(host.clock, data))
    for _, data in tape:  # and at others than they were meant for
        again.handle(Received(again.clock, data))
    fleet.pass_time(10)
    assert fleet.changes[before:] == []
    assert all(host.membership.view is views[host.instance_id] for host in living)
    assert again.membership.rejected["other boot id"] > 0


def test_a_replayed_join_of_a_forgotten_node_is_verified_and_never_accepted() -> None:
    """A recorded JOIN of a node that is gone and forgotten, so that no node answers its verification."""
    fleet = stable_fleet(3)
    newcomer = fleet.make()
    hosts = [host for host in fleet.hosts.values() if host is not newcomer]
    hosts[0].tagged(fleet.tags())
    newcomer.terminate()
    tape = []
    ghost = fleet.make()
    send = fleet.network.send
    fleet.network.send = lambda source, to, data: tape.append(data)  # type: ignore[method-assign]
    ghost.tagged(fleet.tags())
    fleet.network.send = send  # type: ignore[method-assign]
    ghost.terminate()
    assert tape
    for data in tape:
        for host in hosts:
            host.handle(Received(host.clock, data))
    fleet.pass_time(5)
    assert all_see(hosts, ghost, None)


def test_datagrams_of_other_clusters_and_damaged_ones_are_rejected() -> None:
    fleet = stable_fleet(3)
    a, b, _ = fleet.hosts.values()
    tape = [data for to, data in recorded(fleet, 3) if to == a.address]
    damaged = [bytes((data[0], *data[1:-1], data[-1] ^ 1)) for data in tape]
    for data in (*damaged, b"", b"short", bytes(MAX_DATAGRAM)):
        a.handle(Received(a.clock, data))
    assert a.membership.rejected["mac"] >= len(damaged)
    other = Membership(b.membership.status, b"strang", b"another key", 0.0, lambda: 0.5)
    assert other.handle(Received(0.0, tape[0])) == ()
    assert other.rejected == {"mac": 1}


def test_no_datagram_is_larger_than_its_bound() -> None:
    fleet = stable_fleet(40)
    for number, host in enumerate(fleet.hosts.values()):
        host.set_load(Load(number, 1, 0.5, 0.02, 100.0))
        host.announce(NodeState.AT_RISK)
    fleet.boot(10)
    tape = recorded(fleet, 5)
    assert max(len(data) for _, data in tape) <= MAX_DATAGRAM
    assert max(len(data) for _, data in tape) > MAX_DATAGRAM // 2


# cost


def test_a_nodes_traffic_does_not_grow_with_the_size_of_the_fleet() -> None:
    rates = {}
    for count in (20, 200):
        fleet = stable_fleet(count)

        def load(fleet: Fleet = fleet) -> None:
            for number, host in enumerate(fleet.hosts.values()):
                host.set_load(Load((number + round(fleet.scheduler.now * 7)) % 23, 2, 0.5, 0.03, 1000.0))

        fleet.scheduler.every(0.5, load)
        fleet.pass_time(10)
        messages, octets = fleet.network.messages, fleet.network.octets
        fleet.pass_time(20)
        rates[count] = (
            (fleet.network.messages - messages) / 20 / count,
            (fleet.network.octets - octets) / 20 / count,
        )
    assert rates[200][0] < 1.2 * rates[20][0] < 10
    assert rates[200][1] < 2 * rates[20][1] < 4_000


def test_the_view_is_the_same_object_until_a_member_changes() -> None:
    fleet = stable_fleet(10)
    host, other, *_ = fleet.hosts.values()
    view = host.membership.view
    fleet.pass_time(30)
    assert host.membership.view is view
    other.announce(NodeState.AT_RISK)
    fleet.pass_time(1)
    assert host.membership.view is not view
    assert host.membership.view.version > view.version


def test_all_queues_stay_bounded_while_half_the_fleet_flaps() -> None:
    fleet = stable_fleet(40, weather=NetworkConditions(loss=0.1))
    hosts = list(fleet.hosts.values())
    for step in range(40):
        for host in hosts[step % 2 :: 2]:
            (host.freeze if not host.is_frozen else host.resume)()
        fleet.pass_time(2)
        for host in hosts:
            figures = host.membership.stats
            assert figures["updates"] <= 40
            assert figures["loads"] <= 40
            assert figures["probes"] <= 128
            assert figures["timers"] < 600
    for host in hosts:
        if host.is_frozen:
            host.resume()
    wait_until_agreed(fleet, hosts, 60)
