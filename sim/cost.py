"""What membership costs a node: messages, bytes and processor time in a second, and the error of the loads it knows."""

from __future__ import annotations

import random
from bisect import bisect_left
from time import process_time
from typing import Any

from node_agent.contract.errors import InvalidTransition
from node_agent.core.membership import MAX_NODES, Event, Membership
from node_agent.core.node.status import Load
from sim.figures import Spread, spread
from sim.fleet import KEY, Fleet
from sim.host import Host
from sim.observations import MOST_TABLES, SETTLE_S

TAPED = 4
"""Hosts whose events are replayed, to measure the cost of one node by itself."""

PLAYED = 3
"""Replays, of which the quickest counts: the machine may be busy with something else."""


def keep_loads_changing(fleet: Fleet, seed: int) -> None:
    """Change the load of every engine twice a second."""
    rng = random.Random(f"loads {seed}")  # noqa: S311 # a simulation
    busy = dict.fromkeys(fleet.hosts, 8.0)

    def change() -> None:
        for name, host in fleet.hosts.items():
            busy[name] = min(60.0, max(0.0, busy.get(name, 8.0) + rng.gauss(0.0, 1.5)))
            running = int(busy[name])
            host.set_load(Load(running, max(0, running - 32), running / 64, 0.03, 4_000.0))

    fleet.scheduler.every(0.5, change)


def cost(nodes: int, seed: int, seconds: float, *, loads: bool = True) -> dict[str, Any]:
    """Measure messages, bytes and CPU of a node in a second, without and with changing loads, and the loads' error.

    Args:
        nodes: of the fleet.
        seed: of all randomness.
        seconds: of virtual time, for each of the two measurements.
        loads: whether they change at all; where they do, every node receives loads of every other, which takes 2 kB of
            memory for each pair.

    Returns:
        The rates without changes (quiet); with `loads` also those with them (busy), and the load_error in requests.
    """
    fleet = Fleet(seed)
    hosts = fleet.gather(nodes, share=nodes > MOST_TABLES)
    tapes = [EventRecording(host, hosts) for host in hosts[:: max(1, nodes // TAPED)][:TAPED]]
    fleet.pass_time(SETTLE_S)
    found: dict[str, Any] = {"quiet": _rates(fleet, tapes, seconds)}
    if loads:
        keep_loads_changing(fleet, seed)
        fleet.pass_time(seconds)
        found |= {"busy": _rates(fleet, tapes, seconds), "load_error": _load_error(fleet)}
    return found


def _rates(fleet: Fleet, tapes: list[EventRecording], seconds: float) -> dict[str, float]:
    """Measure the rates of a node, and the virtual seconds of the fleet that a processor simulates in a minute."""
    network, nodes, since = fleet.network, len(fleet.hosts), fleet.scheduler.now
    messages, octets, began = network.messages, network.octets, process_time()
    fleet.pass_time(seconds)
    took_s = process_time() - began
    return {
        "messages_s": round((network.messages - messages) / seconds / nodes, 3),
        "bytes_s": round((network.octets - octets) / seconds / nodes, 1),
        "cpu_us_s": round(sum(recording.cpu_us_s(since, since + seconds) for recording in tapes) / len(tapes), 1),
        "cpu_virtual_s_per_minute": round(60 * seconds / took_s, 1),
    }


class EventRecording:
    """The events of one host from its start, to be replayed alone.

    In the simulation a thousand nodes share the processor's caches, which no real node has to.
    """

    def __init__(self, host: Host, hosts: list[Host]) -> None:
        self._host = host
        self._others = [other for other in hosts if other is not host]
        self._began = host.scheduler.now
        self._events: list[Event] = []
        host.recording = self._events

    def cpu_us_s(self, since: float, until: float) -> float:
        """Return the host's CPU microseconds in a second between these instants; call it once `until` is over.

        Raises InvalidTransition where the same events had other effects.
        """
        return min(self._play(since, until) for _ in range(PLAYED)) / (until - since) * 1e6

    def _play(self, since: float, until: float) -> float:
        """Return the seconds that another machine like the host's took for these events, after all of those before."""
        host, others = self._host, self._others
        rng = random.Random(host.seed).random  # noqa: S311 # the same as the host's
        again = Membership(
            host.membership.status, host.boot_id, KEY, self._began, rng, max_nodes=max(MAX_NODES, 2 * len(others) + 2)
        )
        for other in others:
            again.add_member(other.boot_id, other.membership.status)
        first = bisect_left(self._events, since, key=lambda event: event.at)
        last = bisect_left(self._events, until, key=lambda event: event.at)
        for event in self._events[:first]:
            again.handle(event)
        began = process_time()
        for event in self._events[first:last]:
            again.handle(event)
        took_s = process_time() - began
        for event in self._events[last:]:
            again.handle(event)
        if again.stats["sent"] != host.membership.stats["sent"]:
            raise InvalidTransition(f"{host.instance_id} did something else when its events were played again")
        return took_s


def _load_error(fleet: Fleet) -> Spread:
    """Return the error of known loads, in requests in flight."""
    hosts = list(fleet.hosts.values())
    truth = {host.instance_id: host.membership._local.load.in_flight for host in hosts}
    errors = [
        abs(member.load.in_flight - truth[name])
        for host in hosts[:: max(1, len(hosts) // 50)]
        for name, member in host.membership.members.items()
    ]
    return spread(float(error) for error in errors)
