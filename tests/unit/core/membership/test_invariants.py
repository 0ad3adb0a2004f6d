"""Membership as a state machine test: whatever befalls a small fleet, in whatever order, these things hold.

* An incarnation never decreases, in nobody's eyes.
* Who left never returns under the same incarnation.
* Queues, tables and timers stay within bounds, and so does every datagram.
* When the network heals and every stopped node continues, all agree on the members.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from node_agent.contract.states import NodeState
from node_agent.core.failure.loss import LossReason
from node_agent.core.membership import Received
from node_agent.core.membership.wire.messages import MAX_DATAGRAM
from node_agent.core.node.status import Liveness
from sim.fleet import Fleet
from sim.host import Host
from sim.network import NetworkConditions
from tests.generated import examples
from tests.scenarios.fleets import agree

HEALS_WITHIN_S = 120.0
TAPE = 400
SECONDS = st.sampled_from([0.05, 0.4, 1.0, 3.0, 9.0, 40.0])


class MembershipMachine(RuleBasedStateMachine):
    @initialize(seed=st.integers(0, 999), loss=st.sampled_from([0.0, 0.05, 0.3]), count=st.integers(2, 6))
    def begin(self, seed: int, loss: float, count: int) -> None:
        self.fleet = Fleet(seed, NetworkConditions(loss=loss, repeated=0.05, late=0.05))
        self.seen: dict[tuple[bytes, str], int] = {}
        self.left: dict[str, int] = {}
        self.saw_leave: set[tuple[bytes, str]] = set()
        self.recording: list[tuple[str, bytes]] = []
        self.largest = 0
        send = self.fleet.network.send

        def record(source: Host, to: str, data: bytes) -> None:
            self.largest = max(self.largest, len(data))
            if len(self.recording) < TAPE:
                self.recording.append((to, data))
            send(source, to, data)

        self.fleet.network.send = record  # type: ignore[method-assign]
        self.fleet.gather(count)
        for host in list(self.fleet.hosts.values()):
            self.fleet.keep_looking(host)

    def running(self) -> list[Host]:
        return [host for host in self.fleet.hosts.values() if host.is_running and host.instance_id not in self.left]

    def pick(self, number: int) -> Host | None:
        running = self.running()
        return running[number % len(running)] if running else None

    @rule(seconds=SECONDS)
    def time_passes(self, seconds: float) -> None:
        self.fleet.pass_time(seconds)

    @rule(number=st.integers(0, 9))
    def an_instance_is_taken(self, number: int) -> None:
        host = self.pick(number)
        if host is not None and len(self.running()) > 1:
            host.terminate()

    @rule(number=st.integers(0, 9), set_back_s=st.sampled_from([0.0, 7200.0]))
    def an_agent_restarts(self, number: int, set_back_s: float) -> None:
        host = self.pick(number)
        if host is not None:
            self.fleet.keep_looking(self.fleet.restart(host, set_back_s))

    @rule(number=st.integers(0, 9))
    def a_node_leaves(self, number: int) -> None:
        host = self.pick(number)
        if host is not None and len(self.running()) > 1:
            self.left[host.instance_id] = host.membership.status.incarnation
            host.leave()

    @rule()
    def a_node_boots(self) -> None:
        if len(self.fleet.hosts) < 10:
            (host,) = self.fleet.boot()
            self.fleet.keep_looking(host)

    @rule(number=st.integers(0, 9))
    def a_node_is_stopped(self, number: int) -> None:
        host = self.pick(number)
        if host is not None:
            host.freeze()

    @rule(number=st.integers(0, 9))
    def a_node_continues(self, number: int) -> None:
        frozen = [host for host in self.fleet.hosts.values() if host.is_frozen and host.is_up]
        if frozen:
            frozen[number % len(frozen)].resume()

    @rule(number=st.integers(0, 9), state=st.sampled_from([NodeState.READY, NodeState.AT_RISK, NodeState.DRAINING]))
    def a_node_announces(self, number: int, state: NodeState) -> None:
        host = self.pick(number)
        if host is not None:
            host.announce(state)

    @rule(
        number=st.integers(0, 9),
        other=st.integers(0, 9),
        reason=st.sampled_from([LossReason.REFUSED, LossReason.SILENCE]),
    )
    def a_request_fails(self, number: int, other: int, reason: LossReason) -> None:
        host, peer = self.pick(number), self.pick(other)
        if host is not None and peer is not None:
            host.failed(peer.instance_id, reason)

    @rule(number=st.integers(0, 9), seconds=st.sampled_from([-7200.0, -1.0, 1.0, 7200.0]))
    def a_clock_jumps(self, number: int, seconds: float) -> None:
        host = self.pick(number)
        if host is not None:
            host.clock_offset_s += seconds

    @rule(cut=st.integers(1, 62))
    def the_network_splits(self, cut: int) -> None:
        hosts = list(self.fleet.hosts.values())
        self.fleet.split(
            *[[h for n, h in enumerate(hosts) if bool(cut >> n % 6 & 1) is side] for side in (True, False)]
        )

    @rule()
    def the_network_heals(self) -> None:
        self.fleet.split()

    @rule(number=st.integers(0, TAPE), count=st.integers(1, 40))
    def old_datagrams_come_again(self, number: int, count: int) -> None:
        for to, data in self.recording[number : number + count]:
            for host in self.running():
                if host.address == to:
                    host.handle(Received(host.clock, data))

    @invariant()
    def incarnations_never_decrease_and_who_left_stays_gone(self) -> None:
        for host in self.fleet.hosts.values():
            if not host.is_running:
                continue
            machine = host.membership
            known = {name: member.incarnation for name, member in machine.members.items()}
            known |= {name: stone.incarnation for name, stone in machine._table.tombstones.items()}
            known[host.instance_id] = machine.status.incarnation
            for name, incarnation in known.items():
                key = (host.boot_id, name)
                assert incarnation >= self.seen.get(key, -1), f"{name} went back in the eyes of {host.instance_id}"
                self.seen[key] = incarnation
            for name, incarnation in self.left.items():
                member = machine.members.get(name)
                if member is not None and member.liveness.is_present and (host.boot_id, name) in self.saw_leave:
                    assert member.incarnation > incarnation
        self.note_who_left()

    def note_who_left(self) -> None:
        for host in self.fleet.hosts.values():
            for name in self.left:
                member = host.membership.members.get(name)
                if member is not None and member.liveness is Liveness.LEFT:
                    self.saw_leave.add((host.boot_id, name))

    @invariant()
    def everything_is_bounded(self) -> None:
        assert self.largest <= MAX_DATAGRAM
        for host in self.fleet.hosts.values():
            stats = host.membership.stats
            assert stats["updates"] <= 10
            assert stats["loads"] <= 10
            assert stats["probes"] <= 128
            assert stats["timers"] <= 300
            assert stats["dead"] + stats["present"] <= 10

    def teardown(self) -> None:
        if not hasattr(self, "fleet"):
            return
        self.fleet.split()
        self.fleet.network.conditions = NetworkConditions()
        for host in list(self.fleet.hosts.values()):
            if host.is_frozen and host.is_up:
                host.resume()
        self.fleet.pass_time(1)
        waited_s = 0.0
        while not agree(self.running()):
            assert waited_s < HEALS_WITHIN_S, self.disagreement()
            self.fleet.pass_time(2.0)
            waited_s += 2.0

    def disagreement(self) -> str:
        seen = {
            host.instance_id[-2:]: {
                name[-2:]: (member.liveness.value, member.incarnation)
                for name, member in host.membership.members.items()
            }
            for host in self.running()
        }
        return f"no agreement after {HEALS_WITHIN_S} s: {seen}"


TestMembership = MembershipMachine.TestCase
TestMembership.settings = settings(max_examples=examples(60), stateful_step_count=30, deadline=None)
