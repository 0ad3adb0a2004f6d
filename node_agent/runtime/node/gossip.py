"""Membership's I/O: its timer, its datagrams, its sync requests over peer APIs, and the reads of EC2's tags.

All decisions are the machine's (`core/membership`). Its clock is monotonic: nothing here depends on the time of day.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Callable, Sequence

from node_agent.contract.errors import TransientError
from node_agent.core.common.address import Address, parse_address
from node_agent.core.common.request_auth import CLOCK_HEADER
from node_agent.core.failure.loss import LossReason
from node_agent.core.membership import (
    Cause,
    Effect,
    Event,
    KeyUsageReceived,
    Leaving,
    MemberChanged,
    Membership,
    NodesDiscovered,
    PeerRequestFailed,
    Received,
    Refused,
    Send,
    SendSync,
    SyncReplied,
    SyncReply,
    SyncRequested,
    Tick,
)
from node_agent.core.node.discovery_schedule import FIRST_READ_CALLS, PAGE_NODES, DiscoverySchedule
from node_agent.core.node.own_tags import OwnTagCheck
from node_agent.core.node.status import Liveness, TaggedNode
from node_agent.ports import Datagrams, ExchangeLost, Http, Instances
from node_agent.runtime.common.metrics import Metrics

MEMBERS_TARGET = "/peer/v1/members"
_READ_TIMEOUT_S = 1.0
_MAX_ANSWER_BYTES = 1024 * 1024
_DISCOVERY_TIMEOUT_S = 120.0
"""For all pages of one read of EC2's tags."""

_MAX_EXCHANGES = 16
"""Sync requests in progress; a further one is dropped, and the machine sends it another time."""

_log = logging.getLogger(__name__)


class Gossip:
    """Runs the membership machine.

    Args:
        client: for requests to peer APIs.
        monotonic: seconds.
        on_change: receives every change of a member, after the machine has it.
        on_shut_out: called once where this node itself has the tag of nodes that are shut out.
        on_peer_clock: receives a peer API's address, its signed time, the request's nonce, and the seconds that the
            exchange took.

    `on_refusal` receives every content of requests that the fleet refuses, and for how many seconds; `on_key_usage`
    every peer's report of what keys used: the peer's boot id, and the packed report. `on_tags_differ` is called where
    EC2 lists this node with another key, address or state than its own.
    """

    def __init__(
        self,
        machine: Membership,
        datagrams: Datagrams,
        client: Http,
        monotonic: Callable[[], float],
        metrics: Metrics,
        *,
        on_change: Callable[[MemberChanged], None] | None = None,
        on_peer_clock: Callable[[str, str, str, float], None] | None = None,
        on_shut_out: Callable[[], None] = lambda: None,
    ) -> None:
        self.machine = machine
        self.monotonic = monotonic
        self._on_change = on_change or _ignore_change
        self._on_shut_out = on_shut_out
        self._is_shut_out = False
        self._own_tags = OwnTagCheck()
        self._on_peer_clock = on_peer_clock or _ignore_clock
        self.on_refusal: Callable[[bytes, float], None] = lambda content, left_s: None
        self.on_tags_differ: Callable[[], None] = lambda: None
        self.on_key_usage: Callable[[bytes, bytes], None] = lambda boot_id, packed: None
        self._datagrams = datagrams
        self._client = client
        self._metrics = metrics
        self._deadline_moved = asyncio.Event()
        self._unvouched_came = asyncio.Event()
        self._exchanges: set[asyncio.Task[None]] = set()
        metrics.watch_members(lambda: machine.stats, lambda: len(machine.view.suspects))

    def handle(self, event: Event) -> bytes | None:
        """Pass an event to the machine and perform its effects; return the response to a SyncRequested."""
        machine, answer = self.machine, None
        due = machine.next_deadline()
        for effect in machine.handle(event):
            if isinstance(effect, SyncReply):
                answer = effect.body
            else:
                self._perform(effect)
        if machine.next_deadline() < due:
            self._deadline_moved.set()
        return answer

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Send(to, data):
                if (address := _address(to)) is not None:
                    self._datagrams.send(address, data)
            case SendSync():
                self._start_exchange(effect)
            case Refused(content, left_s):
                self.on_refusal(content, left_s)
            case KeyUsageReceived(boot_id, packed):
                self.on_key_usage(boot_id, packed)
            case MemberChanged(status, before, after, reason):
                was = before.value if before is not None else "new"
                name, at = status.instance_id, status.peer_address
                _log.info("%s at %s: %s, was %s: %s", name, at, after.value, was, reason)
                self._metrics.peer_changes.labels(after.value).inc()
                if self.machine.view.unvouched:
                    self._unvouched_came.set()
                self._on_change(effect)

    def on_datagram(self, data: bytes) -> None:
        """Handle a datagram."""
        self.handle(Received(self.monotonic(), data))

    def on_sync_request(self, body: bytes) -> bytes | None:
        """Return the response to a peer's sync request, None where it is rejected."""
        return self.handle(SyncRequested(self.monotonic(), body))

    def on_request_failed(self, instance_id: str, reason: LossReason) -> None:
        """Report that a request to a peer failed."""
        self.handle(PeerRequestFailed(self.monotonic(), instance_id, reason))

    def leave(self) -> None:
        """Leave the fleet: notify the peers that this node ends."""
        self.handle(Leaving(self.monotonic()))

    async def run(self) -> None:
        """Run the machine's timer until cancelled."""
        machine = self.machine
        while True:
            self._deadline_moved.clear()
            wait_s = machine.next_deadline() - self.monotonic()
            if wait_s > 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await self._deadline_moved.wait()
            else:
                await asyncio.sleep(0)
            if machine.next_deadline() <= self.monotonic():
                self.handle(Tick(self.monotonic()))

    async def discover(
        self, instances: Instances, cluster: str, reads: DiscoverySchedule, chance: Callable[[], float]
    ) -> None:
        """Read the fleet's tags now and then, until cancelled; an EC2 that does not answer changes nothing."""
        await asyncio.sleep(reads.first_delay_s(chance()))
        most_calls: int | None = FIRST_READ_CALLS
        while True:
            try:
                async with asyncio.timeout(_DISCOVERY_TIMEOUT_S):
                    found = await instances.nodes(cluster, most_calls)
                nodes = [node for node in found if _address(node.peer_address) is not None]
                is_complete, most_calls = most_calls is None or len(found) < PAGE_NODES, None
                self.handle(NodesDiscovered(self.monotonic(), nodes, is_complete))
                self._compare_own_tags(nodes)
                wait_s = reads.next_delay_s(self.machine.nodes, chance())
            except (TransientError, TimeoutError) as error:
                wait_s = reads.retry_delay_s(self.machine.nodes, chance())
                why = str(error) or f"EC2 did not answer within {_DISCOVERY_TIMEOUT_S:.0f} s"
                _log.warning("%s; the known peers stay; reading again in %.0f s", why, wait_s)
            await self._wait_for_next_read(wait_s, reads, chance)

    def _compare_own_tags(self, nodes: Sequence[TaggedNode]) -> None:
        """Compare what EC2 lists of this node: it may be shut out, or others may have changed its tags."""
        status = self.machine.status
        own = next((node for node in nodes if node.instance_id == status.instance_id), None)
        if own is None or self._is_shut_out:
            return
        if own.is_shut_out:
            self._is_shut_out = True
            _log.error("an operator has shut this node out: it stops serving")
            self._on_shut_out()
        elif (found := self._own_tags.difference(own, status, self.monotonic())) is not None:
            _log.warning("EC2 lists this node with %s: writing its tags again", found)
            self.on_tags_differ()

    async def _wait_for_next_read(self, wait_s: float, reads: DiscoverySchedule, chance: Callable[[], float]) -> None:
        """Wait that long; less where a member waits until EC2 vouches for it, also one that comes meanwhile."""
        due = self.monotonic() + wait_s
        self._unvouched_came.clear()
        if not self.machine.view.unvouched:
            reads.all_vouched()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._unvouched_came.wait()
        if self.machine.view.unvouched:
            due = min(due, self.monotonic() + reads.unvouched_delay_s(self.machine.nodes, chance()))
        await asyncio.sleep(max(0.0, due - self.monotonic()))

    def _start_exchange(self, ask: SendSync) -> None:
        if len(self._exchanges) >= _MAX_EXCHANGES:
            return
        task = asyncio.get_running_loop().create_task(self._exchange(ask))
        self._exchanges.add(task)
        task.add_done_callback(self._exchanges.discard)

    async def _exchange(self, ask: SendSync) -> None:
        """Send a sync request. It needs no signature: it has a MAC, and counts once, whatever the clocks say."""
        headers = {"content-type": "application/octet-stream"}
        asked_at = self.monotonic()
        address = _address(ask.to)
        if address is None:
            self.on_request_failed(ask.instance_id, LossReason.UNREACHABLE)
            return
        try:
            exchange = await self._client.open(
                address, "POST", MEMBERS_TARGET, headers=headers, body=ask.body, read_timeout_s=_READ_TIMEOUT_S
            )
            try:
                answer = await exchange.read_all(_MAX_ANSWER_BYTES)
                status, line = exchange.status, exchange.headers.get(CLOCK_HEADER)
            finally:
                exchange.close()
        except ExchangeLost as lost:
            self.on_request_failed(ask.instance_id, lost.loss.reason)
            return
        if status == 200:
            if line is not None:
                took_s = self.monotonic() - asked_at
                self._on_peer_clock(ask.to, line.decode("latin-1"), sync_request_nonce(ask.body), took_s)
            self.handle(SyncReplied(self.monotonic(), answer))
        else:
            self.on_request_failed(ask.instance_id, LossReason.OTHER)  # an answer, but an error's


def sync_request_nonce(question: bytes) -> str:
    """Return the nonce that a peer's signed time has to contain: a hash of this request, which no other has."""
    return hashlib.sha256(question).hexdigest()


def _ignore_clock(address: str, line: str, nonce: str, took_s: float) -> None:
    """Ignore a peer's clock."""


def _address(text: str) -> Address | None:
    """Parse an address; None for a text that is none, as an EC2 emulator may return."""
    try:
        return parse_address(text)
    except ValueError:
        return None


def _ignore_change(changed: MemberChanged) -> None:
    """Ignore a change."""


def is_lost(changed: MemberChanged) -> bool:
    """Return whether a peer is dead or shut out now: requests that are open there do not end by themselves."""
    return changed.after is Liveness.DEAD or changed.reason is Cause.SHUT_OUT
