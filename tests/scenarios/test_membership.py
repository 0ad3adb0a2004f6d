"""Membership's rules as stories on virtual time: the real machines on a network that is played."""

from __future__ import annotations

from statistics import median

import pytest

from node_agent.contract.states import NodeState
from node_agent.core.membership import Membership, Received, Tempo
from node_agent.core.membership.wire import MAX_DATAGRAM
from node_agent.core.nodes import Liveness, Load, TaggedNode
from sim.fleet import Fleet
from sim.network import Weather
from tests.scenarios.fleets import agree, all_hold, changes, held, names, serving, wait_until_agreed


def calm(count: int, seed: int = 1, weather: Weather | None = None) -> Fleet:
    """A fleet whose nodes have met, in whatever weather."""
    fleet = Fleet(seed, weather)
    fleet.gather(count)
    fleet.pass_time(3)
    return fleet


# probing


def test_who_answers_is_never_suspected() -> None:
    fleet = calm(20)
    fleet.pass_time(300)
    assert fleet.changes == []
    assert agree(list(fleet.hosts.values()))


def test_everyone_is_probed_in_turn_and_nobody_twice_in_a_round() -> None:
    """SWIM's round-robin: a silent node is met within one round of any single other one."""
    fleet = calm(2)
    lonely, gone = fleet.hosts.values()
    for host in (lonely, gone):
        assert held(lonely, host) is Liveness.ALIVE or host is lonely
    gone.vanish()
    began = fleet.agenda.now
    fleet.pass_time(8)
    (at, _, _), *_ = changes(fleet, gone, Liveness.SUSPECT)
    assert at - began <= 2.0


def test_a_vanished_node_is_suspected_then_dead_for_everyone() -> None:
    fleet = calm(10)
    gone, *rest = fleet.hosts.values()
    gone.vanish()
    fleet.pass_time(0.5)
    assert all_hold(rest, gone, Liveness.ALIVE)
    fleet.pass_time(9)
    assert all_hold(rest, gone, Liveness.DEAD)
    order = [change.after for _, by, change in fleet.changes if by == rest[0].instance_id]
    assert order == [Liveness.SUSPECT, Liveness.DEAD]


@pytest.mark.parametrize("loss", [0.0, 0.05])
def test_ten_nodes_exclude_a_dead_one_within_six_seconds(loss: float) -> None:
    suspected, dead = [], []
    for seed in range(40):
        fleet = calm(10, seed, Weather(loss=loss))
        gone = fleet.hosts["i-00000000000000003"]
        began = fleet.agenda.now
        gone.vanish()
        fleet.pass_time(15)
        suspected += [at - began for at, _, _ in changes(fleet, gone, Liveness.SUSPECT, began)]
        dead += [at - began for at, _, _ in changes(fleet, gone, Liveness.DEAD, began)]
    assert len(dead) == 40 * 9
    assert max(suspected) < 6.0  # from then on nobody chooses it
    assert sorted(dead)[int(0.95 * len(dead))] < 6.0
    assert median(dead) < 5.0


def test_a_node_that_one_peer_cannot_reach_is_vouched_for_by_helpers() -> None:
    fleet = calm(6)
    a, b, *_ = fleet.hosts.values()
    fleet.network.cut_links |= {(a.address, b.address), (b.address, a.address)}
    fleet.pass_time(120)
    assert fleet.changes == []


def test_a_node_that_hears_nobody_doubts_itself_and_nobody_dies_of_it() -> None:
    """Lifeguard: it accuses everyone, they refute, and the suspicions that nobody confirms are long."""
    fleet = calm(12)
    deaf, *rest = fleet.hosts.values()
    fleet.network.cut_links |= {(host.address, deaf.address) for host in rest}
    fleet.pass_time(4)
    assert deaf.membership.figures["health"] > 0
    fleet.pass_time(30)
    for host in rest:
        assert not changes(fleet, host, Liveness.DEAD) or all(
            by == deaf.instance_id for _, by, _ in changes(fleet, host, Liveness.DEAD)
        )
    assert agree(rest)


def test_a_node_that_is_slow_for_a_moment_refutes_and_is_taken_back() -> None:
    fleet = calm(10)
    slow, *rest = fleet.hosts.values()
    before = slow.membership.status.incarnation
    while not changes(fleet, slow, Liveness.SUSPECT):
        slow.freeze()
        fleet.pass_time(1.5)
        slow.thaw()
        fleet.pass_time(1.0)
    fleet.pass_time(3)
    assert changes(fleet, slow, Liveness.DEAD) == []
    assert all_hold(rest, slow, Liveness.ALIVE)
    assert slow.membership.status.incarnation > before
    assert all(host.membership.members[slow.instance_id].incarnation > before for host in rest)


def test_a_suspect_serves_nobody_until_it_refutes() -> None:
    fleet = calm(5)
    a, b, *rest = fleet.hosts.values()
    b.freeze()
    a.failed(b.instance_id)
    assert held(a, b) is Liveness.SUSPECT
    assert b.instance_id not in serving(a)
    fleet.pass_time(0.6)
    assert all_hold(rest, b, Liveness.SUSPECT)
    b.thaw()
    fleet.pass_time(1)
    assert all(b.instance_id in serving(host) for host in (a, *rest))


# a failed request is evidence


def test_a_refused_connection_makes_a_crashed_peer_suspect_at_once_and_dead_soon() -> None:
    fleet = calm(10)
    crashed, first, *rest = fleet.hosts.values()
    crashed.crash()
    first.failed(crashed.instance_id)
    assert held(first, crashed) is Liveness.SUSPECT
    fleet.pass_time(1)
    assert all_hold(rest, crashed, Liveness.SUSPECT)
    fleet.pass_time(3)
    assert all_hold([first, *rest], crashed, Liveness.DEAD)


def test_a_peer_that_was_refused_by_mistake_refutes_within_a_round_trip() -> None:
    fleet = calm(10)
    fine, wrong, *_ = fleet.hosts.values()
    wrong.failed(fine.instance_id)
    assert held(wrong, fine) is Liveness.SUSPECT
    fleet.pass_time(0.1)
    assert held(wrong, fine) is Liveness.ALIVE


def test_a_request_that_only_failed_is_a_reason_to_probe_not_to_suspect() -> None:
    fleet = calm(10)
    gone, first, *_ = fleet.hosts.values()
    gone.vanish()
    began = fleet.agenda.now
    first.failed(gone.instance_id, "silence")
    assert held(first, gone) is Liveness.ALIVE
    fleet.pass_time(1)
    assert changes(fleet, gone, Liveness.SUSPECT)[0][0] - began < 0.9
    first.failed("i-unknown")  # whoever that was


# what nodes say of themselves


def test_a_changed_state_is_everywhere_within_a_second() -> None:
    fleet = calm(100)
    going, *rest = fleet.hosts.values()
    going.announce(NodeState.DRAINING)
    fleet.pass_time(1.2)
    assert not any(going.instance_id in serving(host) for host in rest)
    assert all_hold(rest, going, Liveness.ALIVE)
    assert all(host.membership.members[going.instance_id].status.state is NodeState.DRAINING for host in rest)


def test_loads_reach_all_of_a_small_fleet_within_seconds() -> None:
    fleet = calm(10)
    busy, *rest = fleet.hosts.values()
    load = Load(7, 3, 0.5, 0.02, 1500.0)
    busy.measured(load)
    fleet.pass_time(3)
    told = [host.membership.members[busy.instance_id].load for host in rest]
    assert sum(heard.in_flight == load.in_flight for heard in told) >= 8
    busy.measured(load)  # nothing new: nothing is sent
    fleet.pass_time(5)
    assert busy.membership.figures["loads"] == 0


def test_who_leaves_is_known_to_have_left_at_once_and_never_comes_back_under_that_incarnation() -> None:
    fleet = calm(10)
    leaver, *rest = fleet.hosts.values()
    leaver.leave()
    fleet.pass_time(1)
    assert all_hold(rest, leaver, Liveness.LEFT)
    assert changes(fleet, leaver, Liveness.SUSPECT) == []
    for host in rest:  # the tags are still there for a while
        host.tagged(fleet.tags(leaver.instance_id))
    fleet.pass_time(120)
    assert all_hold(rest, leaver, None)  # only its tombstone is left
    for host in rest:
        host.tagged(fleet.tags(leaver.instance_id))
    fleet.pass_time(30)
    assert all_hold(rest, leaver, None)
    assert all(host.membership.figures["named"] == 0 for host in rest)


# tags


def test_a_node_that_only_tags_know_is_greeted_and_then_known_to_all() -> None:
    fleet = calm(10)
    first, *_ = fleet.hosts.values()
    newcomer = fleet.make()  # it has not read any tag itself
    first.tagged(fleet.tags())
    fleet.pass_time(4)
    assert agree(list(fleet.hosts.values()))
    assert held(newcomer, first) is Liveness.ALIVE


def test_a_node_that_only_gossip_knows_is_kept_while_it_lives() -> None:
    fleet = calm(5)
    untagged, *rest = fleet.hosts.values()
    for host in rest:
        host.tagged([tag for tag in fleet.tags() if tag.instance_id != untagged.instance_id])
    fleet.pass_time(120)
    assert agree([untagged, *rest])


def test_a_dead_node_that_ec2_still_shows_is_not_brought_back() -> None:
    fleet = calm(5)
    gone, *rest = fleet.hosts.values()
    gone.vanish()
    fleet.pass_time(10)
    for _ in range(5):
        for host in rest:
            host.tagged(fleet.tags(gone.instance_id))
        fleet.pass_time(30)
        assert all_hold(rest, gone, Liveness.DEAD)
    for host in rest:
        host.tagged(fleet.tags())
    fleet.pass_time(1)
    assert all_hold(rest, gone, None)
    for host in rest:  # and once more, as eventually consistent as ever
        host.tagged(fleet.tags(gone.instance_id))
    fleet.pass_time(30)
    assert all_hold(rest, gone, None)


def test_an_instance_whose_tag_says_gone_is_not_greeted() -> None:
    fleet = calm(3)
    host = next(iter(fleet.hosts.values()))
    host.tagged([TaggedNode("i-other", "10.9.9.9:8001", NodeState.GONE)])
    assert host.membership.figures["named"] == 0


def test_twenty_nodes_that_boot_at_once_know_all_within_seconds() -> None:
    fleet = calm(10)
    booted = fleet.boot(20)
    assert wait_until_agreed(fleet, list(fleet.hosts.values()), 12) < 12
    assert all(host.membership.has_looked for host in booted)


def test_the_first_nodes_of_a_fleet_find_each_other() -> None:
    fleet = Fleet(1)
    for _ in range(3):
        fleet.boot()
        fleet.pass_time(0.3)
    for host in fleet.hosts.values():
        host.tagged(fleet.tags())
    assert wait_until_agreed(fleet, list(fleet.hosts.values()), 5) < 5


def test_an_outage_of_the_ec2_api_changes_nothing() -> None:
    fleet = calm(10)
    for host in fleet.hosts.values():
        fleet.keep_looking(host)
    fleet.api_is_up = False
    fleet.pass_time(300)
    assert fleet.changes == []
    assert not any(host.membership.has_looked for host in fleet.hosts.values())
    assert agree(list(fleet.hosts.values()))


# restarts and wrong clocks


@pytest.mark.parametrize("set_back_s", [0.0, 5 * 3600.0])
def test_a_restarted_agent_takes_its_old_life_s_place_also_with_its_clock_set_back(set_back_s: float) -> None:
    fleet = calm(8)
    old, *rest = fleet.hosts.values()
    new = fleet.restart(old, set_back_s)
    fleet.pass_time(6)
    for host in rest:
        member = host.membership.members[new.instance_id]
        assert member.life == new.life
        assert member.incarnation > old.membership.status.incarnation
    assert agree([new, *rest])


def test_a_clock_set_back_is_made_up_for_also_where_only_some_knew_the_old_life() -> None:
    fleet = calm(6)
    old, *rest = fleet.hosts.values()
    younger = fleet.boot(4)
    for host in younger:
        host.side = 1
    old.vanish()
    fleet.pass_time(10)
    for host in younger:
        host.side = 0
    new = fleet.restart(old, clock_set_back_s=7200)
    fleet.pass_time(40)
    assert agree([new, *rest, *younger])
    assert len({host.membership.members[new.instance_id].incarnation for host in (*rest, *younger)}) == 1


def test_a_restarted_agent_comes_back_after_it_left() -> None:
    fleet = calm(5)
    old, *rest = fleet.hosts.values()
    old.leave()
    fleet.pass_time(2)
    new = fleet.restart(old, clock_set_back_s=3600)
    wait_until_agreed(fleet, [new, *rest], 15)


@pytest.mark.parametrize("jump_s", [3600.0, -3600.0])
def test_a_clock_that_jumps_blames_nobody(jump_s: float) -> None:
    fleet = calm(10)
    jumper, *rest = fleet.hosts.values()
    jumper.clock_offset_s += jump_s
    fleet.pass_time(30)
    assert [change for _, _, change in fleet.changes if change.after is Liveness.DEAD] == []
    assert agree([jumper, *rest])


def test_a_probe_that_was_under_way_when_the_node_was_stopped_says_nothing() -> None:
    """Its answer may have been dropped with a full socket buffer. Only a probe that was lived through counts."""
    fleet = calm(2)
    a, b = fleet.hosts.values()
    b.vanish()
    while not a.membership.figures["probes"]:
        fleet.pass_time(0.05)
    a.freeze()
    fleet.pass_time(60)
    a.thaw()
    fleet.pass_time(0.6)  # the old probe would have ended by now
    assert fleet.changes == []
    fleet.pass_time(2)
    assert held(a, b) is not Liveness.ALIVE


def test_a_node_that_was_stopped_for_a_minute_blames_nobody_and_comes_back() -> None:
    fleet = calm(10)
    stopped, *rest = fleet.hosts.values()
    stopped.freeze()
    fleet.pass_time(60)
    assert all_hold(rest, stopped, Liveness.DEAD)
    thawed_at = fleet.agenda.now
    stopped.thaw()
    wait_until_agreed(fleet, [stopped, *rest], 10)
    own = [change for at, by, change in fleet.changes if by == stopped.instance_id and at >= thawed_at]
    assert [change for change in own if change.after is Liveness.DEAD] == []


# the network


def test_repeated_late_and_reordered_datagrams_change_nothing() -> None:
    fleet = calm(20, weather=Weather(repeated=0.3, late=0.2, late_s=0.25))
    fleet.pass_time(120)
    assert [change for _, _, change in fleet.changes if change.after is Liveness.DEAD] == []
    assert all(host.membership.refused["seen"] > 0 for host in fleet.hosts.values())
    assert agree(list(fleet.hosts.values()))


def test_five_percent_loss_suspects_few_and_kills_nobody() -> None:
    fleet = calm(30, weather=Weather(loss=0.05))
    fleet.pass_time(600)
    suspicions = {(change.status.instance_id, change.status.incarnation) for _, _, change in fleet.changes}
    assert len(suspicions) <= 6  # of 18,000 probes
    assert [change for _, _, change in fleet.changes if change.after is Liveness.DEAD] == []


def test_a_network_that_passes_streams_only_still_has_a_fleet() -> None:
    """Datagrams may be closed by a security group: every probe then falls back to a question over a stream."""
    fleet = calm(4, weather=Weather(loss=1.0))
    fleet.pass_time(60)
    assert [change for _, _, change in fleet.changes if change.after is Liveness.DEAD] == []
    assert agree(list(fleet.hosts.values()))


def test_a_split_fleet_serves_on_both_sides_and_heals() -> None:
    fleet = calm(20)
    hosts = list(fleet.hosts.values())
    left, right = hosts[:8], hosts[8:]
    fleet.split(left, right)
    fleet.pass_time(40)
    for side in (left, right):
        assert agree(side)
        assert all(serving(host) == names(side) - {host.instance_id} for host in side)
    joined_meanwhile = fleet.boot()[0]
    fleet.pass_time(10)
    healed_at = fleet.agenda.now
    fleet.split()
    wait_until_agreed(fleet, [*hosts, joined_meanwhile], 45)
    since = [change for at, _, change in fleet.changes if at > healed_at]
    assert [change for change in since if change.after is Liveness.DEAD] == []
    # Nobody is taken out of service for having been on the other side.
    assert len([change for change in since if change.after is Liveness.SUSPECT]) <= 2


def test_a_split_that_nobody_sees_from_outside_heals_too() -> None:
    """No newcomer, no tags: the dead are tried again now and then."""
    fleet = calm(12)
    hosts = list(fleet.hosts.values())
    fleet.split(hosts[:6], hosts[6:])
    fleet.pass_time(300)
    assert agree(hosts[:6])
    fleet.split()
    wait_until_agreed(fleet, hosts, 30)


def test_who_missed_a_refutation_hears_it_again_from_the_accused() -> None:
    fleet = calm(6)
    accused, deaf, *rest = fleet.hosts.values()
    accused.freeze()
    fleet.pass_time(15)
    assert held(deaf, accused) is Liveness.DEAD
    deaf.side = 1  # it misses how the others take the accused back
    accused.thaw()
    fleet.pass_time(0.8)
    assert all_hold(rest, accused, Liveness.ALIVE)
    assert held(deaf, accused) is Liveness.DEAD
    fleet.network.cut_links |= {(host.address, deaf.address) for host in rest}
    deaf.side = 0
    fleet.pass_time(12)
    assert held(deaf, accused) is Liveness.ALIVE


def test_second_opinions_settle_a_suspicion_without_waiting_for_the_rotation() -> None:
    """Without them only further probes' turns would confirm it, half a second later at that size."""
    took = {}
    for opinions in (0.0, 4.0):
        lasted = []
        for seed in range(8):
            fleet = Fleet(seed, tempo=Tempo(opinions=opinions))
            fleet.gather(40)
            fleet.pass_time(3)
            gone = fleet.hosts["i-00000000000000007"]
            gone.vanish()
            fleet.pass_time(25)
            first = min(at for at, _, _ in changes(fleet, gone, Liveness.SUSPECT))
            lasted.append(max(at for at, _, _ in changes(fleet, gone, Liveness.DEAD)) - first)
        took[opinions] = median(lasted)
    assert took[4.0] < took[0.0] - 0.3


def test_a_zone_that_goes_at_once_is_excluded_and_the_rest_goes_on() -> None:
    fleet = calm(60)
    hosts = list(fleet.hosts.values())
    gone = [host for host in hosts if host.membership.status.pool.zone == "us-east-1a"]
    rest = [host for host in hosts if host not in gone]
    for host in gone:
        host.vanish()
    wait_until_agreed(fleet, rest, 20)
    assert all(not changes(fleet, host, Liveness.DEAD) for host in rest)


def test_half_of_a_fleet_that_goes_at_once_is_excluded() -> None:
    fleet = calm(50)
    hosts = list(fleet.hosts.values())
    for host in hosts[::2]:
        host.vanish()
    wait_until_agreed(fleet, hosts[1::2], 25)


# who may speak


def recorded(fleet: Fleet, seconds: float) -> list[tuple[str, bytes]]:
    """Everything that crosses the network meanwhile: (to, datagram)."""
    tape: list[tuple[str, bytes]] = []
    send = fleet.network.send

    def record(source, to, data):  # type: ignore[no-untyped-def] # the method that it stands in for
        tape.append((to, data))
        send(source, to, data)

    fleet.network.send = record  # type: ignore[method-assign]
    fleet.pass_time(seconds)
    fleet.network.send = send  # type: ignore[method-assign]
    return tape


def test_yesterday_s_datagrams_change_nothing_today() -> None:
    fleet = calm(6)
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
    assert again.membership.refused["other life"] > 0


def test_a_stranger_s_recording_is_asked_and_never_believed() -> None:
    """A hello of a node that is gone and forgotten: nobody is there to answer for it."""
    fleet = calm(3)
    newcomer = fleet.make()
    hosts = [host for host in fleet.hosts.values() if host is not newcomer]
    hosts[0].tagged(fleet.tags())
    newcomer.vanish()
    tape = []
    ghost = fleet.make()
    send = fleet.network.send
    fleet.network.send = lambda source, to, data: tape.append(data)  # type: ignore[method-assign]
    ghost.tagged(fleet.tags())
    fleet.network.send = send  # type: ignore[method-assign]
    ghost.vanish()
    assert tape
    for data in tape:
        for host in hosts:
            host.handle(Received(host.clock, data))
    fleet.pass_time(5)
    assert all_hold(hosts, ghost, None)


def test_other_clusters_and_damaged_datagrams_are_refused() -> None:
    fleet = calm(3)
    a, b, _ = fleet.hosts.values()
    tape = [data for to, data in recorded(fleet, 3) if to == a.address]
    damaged = [bytes((data[0], *data[1:-1], data[-1] ^ 1)) for data in tape]
    for data in (*damaged, b"", b"short", bytes(MAX_DATAGRAM)):
        a.handle(Received(a.clock, data))
    assert a.membership.refused["seal"] >= len(damaged)
    other = Membership(b.membership.status, b"strang", b"another key", 0.0, lambda: 0.5)
    assert other.handle(Received(0.0, tape[0])) == ()
    assert other.refused == {"seal": 1}


def test_no_datagram_is_larger_than_its_bound() -> None:
    fleet = calm(40)
    for number, host in enumerate(fleet.hosts.values()):
        host.measured(Load(number, 1, 0.5, 0.02, 100.0))
        host.announce(NodeState.AT_RISK)
    fleet.boot(10)
    tape = recorded(fleet, 5)
    assert max(len(data) for _, data in tape) <= MAX_DATAGRAM
    assert max(len(data) for _, data in tape) > MAX_DATAGRAM // 2


# cost


def test_a_node_sends_no_more_in_a_fleet_ten_times_as_large() -> None:
    rates = {}
    for count in (20, 200):
        fleet = calm(count)

        def load(fleet: Fleet = fleet) -> None:
            for number, host in enumerate(fleet.hosts.values()):
                host.measured(Load((number + round(fleet.agenda.now * 7)) % 23, 2, 0.5, 0.03, 1000.0))

        fleet.agenda.every(0.5, load)
        fleet.pass_time(10)
        messages, octets = fleet.network.messages, fleet.network.octets
        fleet.pass_time(20)
        rates[count] = (
            (fleet.network.messages - messages) / 20 / count,
            (fleet.network.octets - octets) / 20 / count,
        )
    assert rates[200][0] < 1.2 * rates[20][0] < 10
    assert rates[200][1] < 2 * rates[20][1] < 4_000


def test_the_view_is_the_same_until_something_changes() -> None:
    fleet = calm(10)
    host, other, *_ = fleet.hosts.values()
    view = host.membership.view
    fleet.pass_time(30)
    assert host.membership.view is view
    other.announce(NodeState.AT_RISK)
    fleet.pass_time(1)
    assert host.membership.view is not view
    assert host.membership.view.version > view.version


def test_everything_that_waits_stays_within_bounds_while_half_the_fleet_flaps() -> None:
    fleet = calm(40, weather=Weather(loss=0.1))
    hosts = list(fleet.hosts.values())
    for step in range(40):
        for host in hosts[step % 2 :: 2]:
            (host.freeze if not host.is_frozen else host.thaw)()
        fleet.pass_time(2)
        for host in hosts:
            figures = host.membership.figures
            assert figures["rumours"] <= 40
            assert figures["loads"] <= 40
            assert figures["probes"] <= 128
            assert figures["timers"] < 600
    for host in hosts:
        if host.is_frozen:
            host.thaw()
    wait_until_agreed(fleet, hosts, 60)
