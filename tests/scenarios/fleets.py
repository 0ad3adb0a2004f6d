"""Helpers for scenarios of simulated fleets: liveness of one node as another sees it, and its changes."""

from __future__ import annotations

from collections.abc import Iterable

from node_agent.core.membership import MemberChanged
from node_agent.core.node.status import Liveness
from sim.fleet import Fleet
from sim.host import Host
from sim.network import NetworkConditions


def liveness_at(by: Host, host: Host) -> Liveness | None:
    """Return the liveness of `host` in the member table of `by`, None if it is not listed."""
    member = by.membership.members.get(host.instance_id)
    return member.liveness if member is not None else None


def all_see(hosts: Iterable[Host], host: Host, liveness: Liveness | None) -> bool:
    return all(liveness_at(by, host) is liveness for by in hosts if by is not host)


def serving(by: Host) -> set[str]:
    return {status.instance_id for status in by.membership.view.serving}


def instance_ids(hosts: Iterable[Host]) -> set[str]:
    return {host.instance_id for host in hosts}


def agree(hosts: list[Host]) -> bool:
    """Return True if each host lists exactly the others as alive and suspects no node."""
    return all(
        {status.instance_id for status in host.membership.view.alive} == instance_ids(hosts) - {host.instance_id}
        and not host.membership.view.suspects
        for host in hosts
    )


def changes(fleet: Fleet, of: Host, after: Liveness, since: float = 0.0) -> list[tuple[float, str, MemberChanged]]:
    """Return every change of a host to this liveness since `since`: (virtual seconds, observer, change)."""
    return [
        (at, by, change)
        for at, by, change in fleet.changes
        if at >= since and change.status.instance_id == of.instance_id and change.after is after
    ]


def wait_until_agreed(fleet: Fleet, hosts: list[Host], within_s: float) -> float:
    """Return the virtual seconds until all hosts agree. Raises AssertionError after `within_s`."""
    began = fleet.scheduler.now
    while not agree(hosts):
        assert fleet.scheduler.now - began < within_s, f"no agreement in {within_s} s"
        fleet.pass_time(0.25)
    return fleet.scheduler.now - began


def stable_fleet(count: int, seed: int = 1, weather: NetworkConditions | None = None) -> Fleet:
    """Return a fleet whose nodes have joined. weather: network conditions from the start."""
    fleet = Fleet(seed, weather)
    fleet.gather(count)
    fleet.pass_time(3)
    return fleet
