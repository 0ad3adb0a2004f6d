"""Recognize callers by their keys, with the key document that was read last.

The document is read again and again; no request waits for it. One that cannot be read or parsed replaces nothing: the
keys of the last usable one stay in force, and a metric has how old it is. One that can be parsed and lacks a key
revokes it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from node_agent.contract.errors import NoReadyPeer, RequestRejected, StoreUnavailable
from node_agent.core.access.caller import ANYBODY, Caller, Scope
from node_agent.core.access.credentials import check_scope, read_key, reject
from node_agent.core.access.key_document import parse_key_document
from node_agent.core.access.key_ring import KeyRing
from node_agent.ports import KeyStore
from node_agent.runtime.node.context import NodeContext

READ_TIMEOUT_S = 10.0
_JITTER = 0.2
_FIRST_RETRY_S = 1.0
"""While there are no keys at all, every request is refused."""

_RETRY_AFTER_S = 2.0
_log = logging.getLogger(__name__)


class ClientKeys:
    """The clients' keys in force.

    store: where the document lies, None where keys are off and anybody may do anything. chance: uniform in [0, 1), so
    that the nodes of a fleet do not all read at once.
    """

    def __init__(self, node: NodeContext, store: KeyStore | None, chance: Callable[[], float]) -> None:
        self._node = node
        self._store = store
        self._chance = chance
        self._ring: KeyRing | None = None
        self._document = b""
        self._read_at = self._now()
        self._failure = ""
        metrics = node.metrics
        metrics.keys_off.set(0 if store else 1)
        if store is not None:
            metrics.keys_age.set_function(lambda: self._now() - self._read_at)
            metrics.keys.set_function(self._count_in_force)
            if (remembered := store.remembered()) is not None:
                self._use(remembered)

    @property
    def state(self) -> str:
        """`off`, `on`, or `unavailable` while no usable document was read."""
        if self._store is None:
            return "off"
        return "unavailable" if self._ring is None else "on"

    def identify(self, headers: Mapping[bytes, bytes], target: str, scope: Scope) -> Caller:
        """Return the caller of a request. Raises NoReadyPeer where this node could not read the keys yet.

        Args:
            headers: of the request, by lower-case names.
            target: path and query.
            scope: what the route requires.

        Returns:
            The caller, who has the scope; ANYBODY where keys are off.

        Raises:
            RequestRejected: the key is absent, malformed or not accepted (401), sent in a wrong way (400), or it lacks
                the scope (403).
        """
        try:
            return self._identify(headers, target, scope)
        except RequestRejected as rejected:
            self._node.metrics.refused_callers.labels(rejected.code).inc()
            raise

    def accepts(self, headers: Mapping[bytes, bytes], target: str, scope: Scope) -> bool:
        """Return whether `identify` finds a caller, and count nothing."""
        try:
            self._identify(headers, target, scope)
        except (RequestRejected, NoReadyPeer):
            return False
        return True

    def _identify(self, headers: Mapping[bytes, bytes], target: str, scope: Scope) -> Caller:
        """Return the caller, as `identify`. Raises RequestRejected.

        Raises:
            NoReadyPeer: this node could not read the keys yet.
        """
        if self._store is None:
            return ANYBODY
        key = read_key(headers, target)
        if self._ring is None:
            raise NoReadyPeer("This node could not read the clients' keys yet; try again shortly.", _RETRY_AFTER_S)
        found = self._ring.identify(key, self._fleet_time())
        if not isinstance(found, Caller):
            reject(found)
        check_scope(found, scope)
        return found

    def _fleet_time(self) -> float:
        """Return unix seconds as most peers have them, where several agree that this node's clock is off."""
        own = self._node.own_clock
        return self._node.wall_clock() - (own.off_s if own.is_off else 0.0)

    async def run(self) -> None:
        """Read the document again and again, until cancelled."""
        if self._store is None:
            return
        while True:
            await self.read(self._store)
            interval_s = self._store.interval_s if self._ring is not None else _FIRST_RETRY_S
            await asyncio.sleep(interval_s * (1 - _JITTER + 2 * _JITTER * self._chance()))

    async def read(self, store: KeyStore) -> None:
        """Read the document once, and use it if it is usable."""
        try:
            async with asyncio.timeout(READ_TIMEOUT_S):
                document = await store.read()
        except (StoreUnavailable, TimeoutError) as error:
            self._report("unavailable", str(error) or f"no answer within {READ_TIMEOUT_S:.0f} s")
            return
        if document == self._document:
            self._read_at = self._now()
            self._count("unchanged")
        elif self._use(document):
            store.keep(document)

    def _use(self, document: bytes) -> bool:
        """Put a document into force; return False, and change nothing, where it is not usable."""
        try:
            ring = KeyRing(parse_key_document(document))
        except ValueError as error:
            self._report("unusable", f"the key document is not usable: {error}")
            return False
        self._ring, self._document, self._failure = ring, document, ""
        self._read_at = self._now()
        self._count("changed")
        _log.info("clients' keys: %d are in force", self._count_in_force())
        return True

    def _report(self, outcome: str, failure: str) -> None:
        """Count a failure, and log it where it is not the last one again."""
        self._count(outcome)
        if failure != self._failure:
            self._failure = failure
            stays = "the keys read before stay in force" if self._ring is not None else "no request is accepted"
            _log.warning("clients' keys: %s; %s", failure, stays)

    def _count(self, outcome: str) -> None:
        self._node.metrics.key_reads.labels(outcome).inc()

    def _count_in_force(self) -> int:
        return 0 if self._ring is None else self._ring.count_in_force(self._fleet_time())

    def _now(self) -> float:
        return self._node.gossip.monotonic()
