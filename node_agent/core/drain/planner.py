"""Plan a drain: which streams finish on a terminating node, and which are handed off, when, and to which peer.

A stream finishes here if its remaining time fits before the deadline, with a margin; all others are handed off, the
longest first, because they gain most from an early start elsewhere. A stream of unknown length, or that has not begun,
is handed off.

The plan is made again and again during the drain, because engines slow down, peers join and leave, and streams that
were handed off are gone. A stream is handed off:

* to a peer outside the reclaimed pools, where there is one; ready peers before those at risk;
* to one of a few peers that this node chooses: where half a fleet drains at once, all draining nodes share all others,
  and each uses no more than its share of a peer's prefill rate, and waits for its turn to begin;
* no earlier than that peer can accept it: the peer must compute the stream's context again (its prefill), and receives
  no more than BACKLOG_S of that at a time, its own queue included; a longer one only where nothing else waits;
* a stream for which no peer has room before the last moment is generated here until then, and is handed off all the
  same: it waits at its entry, and is not lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from node_agent.contract.states import NodeState
from node_agent.core.node.status import Load, NodeStatus, Pool

MARGIN_S = 5.0
"""Kept free before the deadline: to close clients' connections, write records and stop the engine."""

BACKLOG_S = 2.0
"""The prefill that a peer may have queued: the delay that this node causes for the peer's own first tokens."""

PREFILL_TOKENS_S = 2_000.0
"""The assumed rate of a peer that has not measured its own: about an A10G's with an 8B model."""

WAITING_TOKENS = 500
"""The assumed prompt tokens of a request that waits at a peer."""

LAST_MOMENTS_S = 3.0
"""Streams without a place are handed off within that time before the margin, one after another, not all at once."""

SHARED_RATE = 0.5
"""The part of a peer's prefill rate that all draining nodes together may use: their hand-offs arrive at random, so that
queues would grow at its full rate, and its own clients send requests, too."""

MIN_PREFILL_S = 0.005
MAX_PEERS = 32
"""Peers that one node hands off to; more would only cost time."""

FULL_WAITING = 8
"""Waiting requests at a peer from which on others are preferred."""


@dataclass(frozen=True)
class ServedStream:
    """A request at this node's engine."""

    key: int
    remaining_tokens: int | None
    """None where the request has no limit of its own."""

    time_per_token_s: float
    context_tokens: int = 0
    """Prompt and answer so far: what another engine has to prefill before it continues."""

    @property
    def remaining_s(self) -> float | None:
        """The time that the stream still takes here; None where it is unknown."""
        if self.remaining_tokens is None or self.time_per_token_s <= 0:
            return None
        return self.remaining_tokens * self.time_per_token_s


@dataclass(frozen=True)
class Peer:
    """A node that may receive streams: it serves the same model."""

    status: NodeStatus
    load: Load


@dataclass(frozen=True)
class HandOff:
    """One stream's hand-off."""

    key: int
    target: str | None
    """An instance id; None where there is no peer."""

    at: float
    """Unix seconds."""

    is_overflow: bool = False
    """True where no peer has room for it in time."""


@dataclass(frozen=True)
class DrainPlan:
    """What to do with each stream."""

    finish: tuple[int, ...]
    """Keys of the streams that stay."""

    due: tuple[HandOff, ...]
    """Hand-offs to execute now, all of them."""

    later: tuple[HandOff, ...]
    """Expected hand-offs; the next plan decides."""


def reclaimed_pools(nodes: Iterable[NodeStatus], own: Pool) -> frozenset[Pool]:
    """Return the pools that EC2 appears to reclaim: this node's, and those of all that drain or are at risk."""
    unsafe = (NodeState.AT_RISK, NodeState.DRAINING)
    return frozenset((own, *(node.pool for node in nodes if node.state in unsafe)))


class DrainPlanner:
    """Plans one node's drain. It records what each peer was given, because peers' loads show that only later."""

    def __init__(self, own_id: str) -> None:
        self._own_id = own_id
        self._began_at: float | None = None
        self._busy_until: dict[str, float] = {}

    def plan(
        self,
        streams: Iterable[ServedStream],
        peers: Sequence[Peer],
        reclaimed: Collection[Pool],
        draining_nodes: int,
        now: float,
        deadline: float,
    ) -> DrainPlan:
        """Plan all streams.

        Args:
            streams: the requests at this node's engine.
            peers: the nodes that may receive them.
            reclaimed: the pools that EC2 reclaims (`reclaimed_pools`).
            draining_nodes: how many nodes drain now, this one included.
            now: unix seconds.
            deadline: unix seconds.

        Returns:
            The plan. The caller executes all of `due`: the next plan expects their prefill at the peers.
        """
        finish, moving = _split_streams(streams, deadline - now - MARGIN_S)
        peers, speeds = self._choose_peers(peers, reclaimed, draining_nodes)
        busy_until = self._busy_times(peers, speeds, moving, now)
        latest = max(now, deadline - MARGIN_S)
        due: list[HandOff] = []
        later: list[HandOff] = []
        unplaced: list[ServedStream] = []
        for stream in moving:
            hand_off = _place(stream, peers, speeds, reclaimed, busy_until, now, latest)
            if hand_off is None:
                unplaced.append(stream)
            elif hand_off.at <= now:
                # At one peer, nothing due comes after something later: so this is all that the peer was given.
                self._busy_until[hand_off.target or ""] = busy_until[hand_off.target or ""]
                due.append(hand_off)
            else:
                later.append(hand_off)
        for hand_off in _overflow(unplaced, peers, reclaimed, busy_until, now, latest):
            (due if hand_off.at <= now else later).append(hand_off)
        return DrainPlan(tuple(stream.key for stream in finish), tuple(due), tuple(later))

    def _choose_peers(
        self, peers: Sequence[Peer], reclaimed: Collection[Pool], draining_nodes: int
    ) -> tuple[list[Peer], dict[str, float]]:
        """Return a few peers, the best kind first, and the prefill rate of each for this node, in tokens a second.

        Every draining node chooses as many, at random, so that this node has an equal share of each peer.
        """
        kinds = [(_kind(peer, reclaimed), peer.load.waiting >= FULL_WAITING) for peer in peers]
        ranked = sorted(
            zip(kinds, peers, strict=True),
            key=lambda ranked: (ranked[0], _share(f"{self._own_id} {ranked[1].status.instance_id}")),
        )
        chosen = ranked[:MAX_PEERS]
        of_kind, chosen_of_kind = Counter(kinds), Counter(kind for kind, _ in chosen)
        speeds = {}
        for kind, peer in chosen:
            sharers = draining_nodes * chosen_of_kind[kind] / of_kind[kind]
            speeds[peer.status.instance_id] = _rate(peer) * (SHARED_RATE / sharers if sharers > 1 else 1.0)
        return [peer for _, peer in chosen], speeds

    def _busy_times(
        self, peers: Sequence[Peer], speeds: Mapping[str, float], moving: Sequence[ServedStream], now: float
    ) -> dict[str, float]:
        """Return until when each peer is busy with its prefill; not before this node's first turn there."""
        self._began_at = began_at = now if self._began_at is None else self._began_at
        context = sum(stream.context_tokens for stream in moving) / max(1, len(moving))
        busy_until = {}
        for peer in peers:
            name = peer.status.instance_id
            others_s = context / speeds[name] - context / _rate(peer)
            turn = began_at + _share(f"{name} {self._own_id}") * others_s
            busy_until[name] = max(self._busy_until.get(name, 0.0), turn, now + _queue_s(peer))
        return busy_until


def _split_streams(
    streams: Iterable[ServedStream], available_s: float
) -> tuple[list[ServedStream], list[ServedStream]]:
    """Split the streams into those that finish here, and the others, the longest first."""
    finish: list[ServedStream] = []
    moving: list[ServedStream] = []
    for stream in streams:
        remaining_s = stream.remaining_s
        (finish if remaining_s is not None and remaining_s < available_s else moving).append(stream)
    moving.sort(key=lambda stream: (-(float("inf") if stream.remaining_s is None else stream.remaining_s), stream.key))
    return finish, moving


def _share(text: str) -> float:
    """Hash a text to [0, 1), evenly."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") / 2**64


def _queue_s(peer: Peer) -> float:
    """Return the prefill that waits at a peer, in seconds, by its reported load."""
    return peer.load.waiting * WAITING_TOKENS / _rate(peer)


def _rate(peer: Peer) -> float:
    return peer.load.prefill_tokens_s or PREFILL_TOKENS_S


def _kind(peer: Peer, reclaimed: Collection[Pool]) -> int:
    """Rank a peer: 0 is best, ready and outside the reclaimed pools; then outside; then ready."""
    return 2 * (peer.status.pool in reclaimed) + (peer.status.state is not NodeState.READY)


def _place(
    stream: ServedStream,
    peers: Sequence[Peer],
    speeds: Mapping[str, float],
    reclaimed: Collection[Pool],
    busy_until: dict[str, float],
    now: float,
    latest: float,
) -> HandOff | None:
    """Choose the peer that prefills the stream soonest, of the best kind that can in time; update `busy_until`."""
    best: tuple[int, float, int, float, str] | None = None
    for peer in peers:
        name = peer.status.instance_id
        cost_s = max(MIN_PREFILL_S, stream.context_tokens / speeds[name])
        at = max(now, busy_until[name] + cost_s - max(BACKLOG_S, cost_s))
        if at > latest:
            continue
        rank = (_kind(peer, reclaimed), max(busy_until[name], at) + cost_s, peer.load.in_flight, at, name)
        if best is None or rank < best:
            best = rank
    if best is None:
        return None
    _, prefilled_at, _, at, name = best
    busy_until[name] = prefilled_at
    return HandOff(stream.key, name, at)


def _overflow(
    streams: Sequence[ServedStream],
    peers: Sequence[Peer],
    reclaimed: Collection[Pool],
    busy_until: dict[str, float],
    now: float,
    latest: float,
) -> list[HandOff]:
    """Hand off the streams without a place, spread over the last moments and over the peers."""
    best_kind = min((_kind(peer, reclaimed) for peer in peers), default=0)
    names = [peer.status.instance_id for peer in peers if _kind(peer, reclaimed) == best_kind]
    first = max(now, latest - LAST_MOMENTS_S)
    hand_offs = []
    for number, stream in enumerate(streams):
        to = min(names, key=lambda name: (busy_until[name], name), default=None)
        if to is not None:
            busy_until[to] += max(MIN_PREFILL_S, stream.context_tokens / PREFILL_TOKENS_S)
        at = first + (latest - first) * (number + 1) / len(streams)
        hand_offs.append(HandOff(stream.key, to, at, is_overflow=True))
    return hand_offs
