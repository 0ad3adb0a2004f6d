"""Reports of keys' usage: they reach all nodes, count from members only, and leave datagrams within their bound."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.core.access.key_usage import digest_of
from node_agent.core.access.peer_usage import UsageReport
from node_agent.core.membership import Effect, Event, KeyUsageReceived, LocalKeyUsageSet
from node_agent.core.membership.broadcast_queue import UsageQueue
from node_agent.core.membership.wire.key_usage import KEY_BYTES, MAX_KEYS, read_key_usage, write_key_usage
from node_agent.core.membership.wire.messages import HEADER_BYTES, MAC_BYTES, MAX_DATAGRAM
from node_agent.core.membership.wire.updates import KeyUsage, read_updates, write_key_usage_update
from sim.fleet import Fleet
from sim.host import Host
from sim.network import NetworkConditions
from tests.scenarios.fleets import stable_fleet

REPORT = UsageReport(requests=3, tokens=700, streams=2, demanded=4, demanded_tokens=900)
DIGEST = digest_of("k")


def watch(hosts: list[Host]) -> dict[str, dict[bytes, list[tuple[bytes, UsageReport]]]]:
    """Return what each host has received last, by the sender's boot id; filled as the fleet runs."""
    received: dict[str, dict[bytes, list[tuple[bytes, UsageReport]]]] = {host.instance_id: {} for host in hosts}

    def wrap(host: Host) -> None:
        handle = host.membership.handle

        def watched(event: Event) -> tuple[Effect, ...]:
            effects = handle(event)
            for effect in effects:
                if isinstance(effect, KeyUsageReceived):
                    received[host.instance_id][effect.boot_id] = list(read_key_usage(effect.packed))
            return effects

        host.membership.handle = watched  # type: ignore[method-assign]

    for host in hosts:
        wrap(host)
    return received


def report_from(host: Host, *reports: tuple[bytes, UsageReport]) -> None:
    host.handle(LocalKeyUsageSet(host.clock, write_key_usage(reports)))


@pytest.mark.parametrize(("count", "within_s"), [(3, 1.0), (30, 2.5)])
def test_a_report_reaches_all_nodes_within_the_settle_time(count: int, within_s: float) -> None:
    fleet = stable_fleet(count)
    hosts = fleet.running()
    received = watch(hosts)
    report_from(hosts[0], (DIGEST, REPORT))
    fleet.pass_time(within_s)
    has = [host for host in hosts[1:] if received[host.instance_id].get(hosts[0].boot_id) == [(DIGEST, REPORT)]]
    assert len(has) >= 0.95 * (count - 1)


def test_reports_of_all_nodes_reach_nearly_all_also_where_datagrams_are_lost() -> None:
    fleet: Fleet = stable_fleet(20, weather=NetworkConditions(loss=0.2))
    hosts = fleet.running()
    received = watch(hosts)
    for host in hosts:
        report_from(host, (DIGEST, REPORT))
    fleet.pass_time(2.5)
    pairs = sum(len(reports) for reports in received.values())
    assert pairs >= 0.88 * 20 * 19  # the next report reaches the others


def test_the_newest_report_counts_and_an_unknown_nodes_does_not() -> None:
    fleet = stable_fleet(3)
    host, peer, _ = fleet.running()
    received = watch([host])[host.instance_id]
    state = host.membership._member_state
    newer = REPORT._replace(requests=9)
    state.apply(KeyUsage(peer.boot_id, 7, write_key_usage([(DIGEST, newer)])))
    host.handle(LocalKeyUsageSet(host.clock, b""))  # takes the effects out
    state.apply(KeyUsage(peer.boot_id, 6, write_key_usage([(DIGEST, REPORT)])))
    state.apply(KeyUsage(b"nobody", 9, write_key_usage([(DIGEST, REPORT)])))
    host.handle(LocalKeyUsageSet(host.clock, b""))
    assert received == {peer.boot_id: [(DIGEST, newer)]}


def test_a_report_of_a_node_that_ec2_does_not_vouch_for_takes_from_no_limit() -> None:
    fleet = stable_fleet(3)
    host, peer, _ = fleet.running()
    received = watch([host])[host.instance_id]
    member = host.membership.members[peer.instance_id]
    report = KeyUsage(peer.boot_id, 7, write_key_usage([(DIGEST, REPORT)]))
    member.is_vouched = False
    host.membership._member_state.apply(report)
    host.handle(LocalKeyUsageSet(host.clock, b""))
    assert received == {}
    member.is_vouched = True
    host.membership._member_state.apply(report)
    host.handle(LocalKeyUsageSet(host.clock, b""))
    assert received == {peer.boot_id: [(DIGEST, REPORT)]}


def test_a_report_of_the_most_keys_fits_into_a_datagram_and_further_keys_are_left_out() -> None:
    reports = [(bytes([number]) * 8, REPORT) for number in range(MAX_KEYS + 5)]
    packed = write_key_usage(reports)
    update = write_key_usage_update(b"boot-1", 1, packed)
    assert len(packed) == MAX_KEYS * KEY_BYTES
    assert len(update) <= MAX_DATAGRAM - HEADER_BYTES - MAC_BYTES
    assert list(read_key_usage(packed)) == reports[:MAX_KEYS]
    fleet = stable_fleet(3)
    hosts = fleet.running()
    sizes: list[int] = []
    send = fleet.network.send

    def measured(source: Host, to: str, data: bytes) -> None:
        sizes.append(len(data))
        send(source, to, data)

    fleet.network.send = measured  # type: ignore[method-assign]
    for host in hosts:
        report_from(host, *reports)
    fleet.pass_time(2)
    assert max(sizes) > 700
    assert max(sizes) <= MAX_DATAGRAM


@given(st.binary(max_size=1_100))
def test_odd_reports_are_read_as_far_as_they_go(packed: bytes) -> None:
    reports = list(read_key_usage(packed))
    assert len(reports) == min(len(packed) // KEY_BYTES, MAX_KEYS)
    (update,) = read_updates(write_key_usage_update(b"boot-1", 1, packed), 0)
    assert update == KeyUsage(b"boot-1", 1, packed)


def test_counts_beyond_the_format_become_its_largest_and_negative_ones_none() -> None:
    odd = UsageReport(requests=2**40, tokens=-5, streams=70_000, demanded=70_000, demanded_tokens=2**33)
    ((_, read),) = read_key_usage(write_key_usage([(DIGEST, odd)]))
    assert read == UsageReport(2**32 - 1, 0, 65_535, 65_535, 2**32 - 1)


def test_a_report_shorter_than_its_head_is_malformed() -> None:
    with pytest.raises(ValueError, match="update 8"):
        list(read_updates(struct.pack(">BH", 8, 4) + b"four", 0))


def test_the_queue_sends_each_report_a_few_times_and_is_bounded() -> None:
    queue = UsageQueue(capacity=2)
    for boot_id in (b"one", b"two", b"three"):
        queue.add(boot_id, boot_id * 20)
    assert len(queue) == 2
    assert queue.next_batch(59) == b""
    assert queue.next_batch(99) == b"two" * 20
    assert queue.next_batch(160) == b"three" * 20 + b"two" * 20
    queue.add(b"two", b"new" * 20)
    assert [queue.next_batch(1_000).count(b"new" * 20) for _ in range(6)] == [1, 1, 1, 1, 0, 0]
    assert len(queue) == 0
