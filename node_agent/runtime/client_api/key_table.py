"""Hold what is known of the keys that have limits: this node's counts, and those of its peers by gossip."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Protocol

from node_agent.core.access.caller import NO_LIMITS, Caller
from node_agent.core.access.key_usage import KeyUsage, digest_of
from node_agent.core.access.peer_usage import NOTHING, FleetShape, fleet_shape
from node_agent.core.access.usage_share import MIN_REPORT_INTERVAL_S, report_interval_s
from node_agent.core.access.window import MINUTE_S
from node_agent.core.membership import LocalKeyUsageSet, View
from node_agent.core.membership.wire.key_usage import MAX_KEYS, read_key_usage, write_key_usage
from node_agent.runtime.node.context import NodeContext

MAX_KEYS_HELD = 2_000
"""Keys that only peers report; a report of a further one is ignored."""

SETTLE_EVERY_S = 1.0
_TICK_S = 0.25
_ZEROS = 3
"""How often it is reported that a key uses nothing any more: a report may be lost."""


class OpenRequest(Protocol):
    """A request that is being answered."""

    def settle(self, at: float) -> None:
        """Count what was generated so far."""
        ...


class Key:
    """One key with limits.

    has_zero: whether one of its limits is 0; held: how many of its requests wait for a share; open: those that are
    answered; zeros: how often its last reports were of nothing.
    """

    __slots__ = ("has_zero", "held", "key_id", "open", "usage", "zeros")

    def __init__(self, digest: bytes) -> None:
        self.usage = KeyUsage(digest, NO_LIMITS)
        self.key_id = ""
        self.has_zero = False
        self.held = 0
        self.open: set[OpenRequest] = set()
        self.zeros = 0


class KeyTable:
    """The keys with limits, by their ids, and by the digests that reports name them with."""

    def __init__(self, node: NodeContext) -> None:
        self._node = node
        self.now = node.gossip.monotonic
        self._keys: dict[bytes, Key] = {}
        self._by_id: dict[str, Key] = {}
        self._turns: OrderedDict[bytes, None] = OrderedDict()  # keys with something to report
        self._reporting: dict[bytes, float] = {}  # peers that report, and when they last did
        self._is_urgent = False
        self._reported_at = self._settled_at = self._cleaned_at = float("-inf")
        self._shape: FleetShape | None = None
        self._view: View | None = None
        node.gossip.on_key_usage = self.on_report

    def __len__(self) -> int:
        return len(self._keys)

    def key(self, caller: Caller) -> Key:
        """Return a caller's key, with its present limits."""
        key = self._by_id.get(caller.key_id)
        if key is None:
            digest = digest_of(caller.key_id)
            key = self._by_id[caller.key_id] = self._keys.get(digest) or self._add(digest)
            key.key_id = caller.key_id
        limits = caller.limits
        if limits is not key.usage.limits:
            key.usage.limits = limits
            allowed = (limits.requests_per_minute, limits.tokens_per_minute, limits.streams)
            key.has_zero = any(each is not None and each <= 0 for each in allowed)
        return key

    def _add(self, digest: bytes) -> Key:
        key = self._keys[digest] = Key(digest)
        return key

    def reports_soon(self, key: Key, *, is_urgent: bool) -> None:
        """Have a key's counts reported. is_urgent: at once, because peers have no report of its demand here."""
        self._turns.setdefault(key.usage.digest)
        if is_urgent:
            self._turns.move_to_end(key.usage.digest, last=False)
            self._is_urgent = True

    def fleet(self) -> FleetShape:
        """Return the shape of the fleet, anew after a change of its members."""
        members = self._node.members
        if self._shape is None or members.view is not self._view:
            self._view = members.view
            peers = [each.boot_id for each in members.members.values() if each.is_vouched and each.liveness.is_present]
            self._shape = fleet_shape(members.boot_id, peers, len(self._reporting) + 1)
        return self._shape

    def on_report(self, boot_id: bytes, packed: bytes) -> None:
        """Record a peer's report. boot_id: the peer's."""
        at = self.now()
        if boot_id not in self._reporting:
            self._shape = None
        self._reporting[boot_id] = at
        for digest, report in read_key_usage(packed):
            key = self._keys.get(digest)
            if key is None and len(self._keys) < MAX_KEYS_HELD:
                key = self._add(digest)
            if key is not None:
                key.usage.peers.record(at, boot_id, report)

    async def run(self) -> None:
        """Count open streams, and report to the peers, until cancelled."""
        while True:
            await asyncio.sleep(_TICK_S)
            self.tick()

    def tick(self) -> None:
        """Do what is due: count open streams once a second, report as often as `usage_share` says."""
        at = self.now()
        if at - self._settled_at >= SETTLE_EVERY_S:
            self._settled_at = at
            self._settle(at)
        interval_s = MIN_REPORT_INTERVAL_S if self._is_urgent else report_interval_s(len(self._reporting) + 1)
        if self._turns and at - self._reported_at >= interval_s:
            self._reported_at, self._is_urgent = at, False
            self._report(at)

    def _settle(self, at: float) -> None:
        for key in self._by_id.values():
            if key.usage.limits.tokens_per_minute is not None:
                for request in key.open:
                    request.settle(at)
        for boot_id in [each for each, last_at in self._reporting.items() if at - last_at > MINUTE_S]:
            del self._reporting[boot_id]
            self._shape = None
        if at - self._cleaned_at >= MINUTE_S:
            self._cleaned_at = at
            self._forget_idle(at)

    def _forget_idle(self, at: float) -> None:
        """Forget keys for which nothing counts, once the peers have that."""
        for digest, key in list(self._keys.items()):
            if digest not in self._turns and not key.open and not key.held and key.usage.is_idle(at):
                del self._keys[digest]
                self._by_id.pop(key.key_id, None)

    def _report(self, at: float) -> None:
        """Report the keys whose turn it is: those that were reported longest ago."""
        reports = []
        for digest in [digest for digest, _ in zip(self._turns, range(MAX_KEYS), strict=False)]:
            del self._turns[digest]
            key = self._keys.get(digest)
            if key is None:
                continue
            report = key.usage.report(at)
            key.zeros = key.zeros + 1 if report == NOTHING else 0
            if key.zeros < _ZEROS:
                self._turns[digest] = None
            reports.append((digest, report))
        self._node.gossip.handle(LocalKeyUsageSet(at, write_key_usage(reports)))
