"""The network between simulated nodes: it delays, loses, repeats, reorders and is cut."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import Enum
from typing import Generic, Protocol, TypeVar

from sim.scheduler import Scheduler

_DATAGRAM_HEADERS = 28
"""Of IPv4 and UDP."""

_STREAM_HEADERS = 300
"""Of one HTTP message and its share of a TCP connection, about."""


_HANDSHAKE_AGAIN_S = 1.0
_DATA_AGAIN_S = 0.2
"""Linux's first retransmission timeouts: of a SYN, and about that of data (TCP_TIMEOUT_INIT, TCP_RTO_MIN)."""


@dataclass(frozen=True)
class NetworkConditions:
    """The network's faults: shares from 0 to 1, delays in seconds.

    delay_s: the median one way; late: the share of datagrams that take up to late_s, and so overtake each other.
    """

    loss: float = 0.0
    repeated: float = 0.0
    delay_s: float = 0.0005
    late: float = 0.0
    late_s: float = 0.2


class ConnectResult(Enum):
    """The result of a connection attempt."""

    OPEN = "open"
    REFUSED = "refused"
    SILENT = "silent"


class Endpoint(Protocol):
    """A host on the network. side: hosts of different sides do not reach each other; address: host:port.

    listens: whether the agent's process lives; is_up: whether the host does.
    """

    address: str
    side: int
    is_up: bool
    listens: bool

    def on_datagram(self, data: bytes) -> None:
        """Receive a datagram."""
        ...


_Host = TypeVar("_Host", bound=Endpoint)


class Network(Generic[_Host]):
    """messages, octets: of datagrams and streams, with the headers around them."""

    def __init__(self, scheduler: Scheduler, seed: int, conditions: NetworkConditions | None = None) -> None:
        self.conditions = conditions or NetworkConditions()
        self.messages = 0
        self.octets = 0
        self._scheduler = scheduler
        self._random = random.Random(f"network {seed}")  # noqa: S311 # a simulation, the same for every seed
        self._hosts: dict[str, _Host] = {}
        self.cut_links: set[tuple[str, str]] = set()
        """Pairs (from, to) that lose everything, beside the sides."""

    def plug_in(self, host: _Host) -> None:
        """Connect a host at its address; it replaces an earlier one there."""
        self._hosts[host.address] = host

    def delay_s(self) -> float:
        """Draw the time that a datagram takes one way, in seconds."""
        conditions, rng = self.conditions, self._random.random()
        if conditions.late and rng < conditions.late:
            return conditions.delay_s + conditions.late_s * self._random.random()
        return conditions.delay_s * (0.5 + 2.0 * rng * rng)

    def stream_delay_s(self, *, opens: bool) -> float:
        """Draw the time that a message over a stream takes one way, in seconds; TCP sends again what is lost.

        At a loss of 1.0 no packet counts as lost: streams are then on another path.

        Args:
            opens: whether its connection is made first.

        Returns:
            The delay.
        """
        delay_s, loss = self.delay_s(), self.conditions.loss
        if opens:
            delay_s += 2 * self.delay_s()
            while 0.0 < loss < 1.0 and self._random.random() > (1 - loss) ** 2:  # of a SYN and its answer
                delay_s += _HANDSHAKE_AGAIN_S
        while 0.0 < loss < 1.0 and self._random.random() < loss:
            delay_s += _DATA_AGAIN_S
        return delay_s

    def send(self, source: _Host, to: str, data: bytes) -> None:
        """Send a datagram, which may be lost."""
        self.messages += 1
        self.octets += len(data) + _DATAGRAM_HEADERS
        target = self._hosts.get(to)
        if target is None or self._is_cut(source, target):
            return
        conditions = self.conditions
        if conditions.loss and self._random.random() < conditions.loss:
            return
        self._scheduler.after(self.delay_s(), self._arrive, target, data)
        if conditions.repeated and self._random.random() < conditions.repeated:
            self._scheduler.after(self.delay_s() * 3, self._arrive, target, data)

    def _is_cut(self, source: _Host, target: _Host) -> bool:
        if source.side != target.side:
            return True
        return bool(self.cut_links) and (source.address, target.address) in self.cut_links

    def _arrive(self, target: _Host, data: bytes) -> None:
        if target.is_up and target.listens:
            target.on_datagram(data)

    def reach(self, source: _Host, to: str) -> tuple[ConnectResult, _Host | None]:
        """Return the result of a connection to that address now, and the host there where the connection opens."""
        target = self._hosts.get(to)
        if target is None or not target.is_up or self._is_cut(source, target) or self._is_cut(target, source):
            return ConnectResult.SILENT, None
        return (ConnectResult.OPEN, target) if target.listens else (ConnectResult.REFUSED, None)

    def count(self, octets: int) -> None:
        """Count a message over a stream."""
        self.messages += 1
        self.octets += octets + _STREAM_HEADERS
