"""The drain planner: which streams finish on a node that is going, and which are handed off, when, and to whom.

A stream finishes here if what is left of it fits before the deadline, with a margin; all others are handed off, the
longest first, because they have most to gain from an early start elsewhere. A stream whose length nobody knows, or
that has not begun, is handed off.

It is planned again and again while the drain goes on, because engines slow down, peers come and go, and what was handed
off is gone. A stream goes:

* to a peer outside the pools that are going, where there is one; ready ones before those at risk;
* one of a few that are this node's own choice: where half a fleet goes at once, all that go share all that stay, and
  each counts on no more than its share of what a peer can read, and waits for its turn to begin;
* no earlier than that peer can take it: what a stream has so far must be read again there (its prefill), and a peer
  gets no more than BACKLOG_S of that at a time, its own queue included; a longer one only where nothing else waits;
* what finds no place before the last moment goes on being generated here until then, and is handed off all the same:
  it waits at its entry, and is never lost for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from node_agent.contract.states import NodeState
from node_agent.core.node.status import Load, NodeStatus, Pool

MARGIN_S = 5.0
"""Kept free before the deadline: for closing clients' connections, records and the engine's own end."""

BACKLOG_S = 2.0
"""Prefill that a peer may have before it: what its own clients' first tokens are late for this node's sake."""

PREFILL_TOKENS_S = 2_000.0
"""Of a peer that has not measured its own: an A10G reads an 8B model's prompts about that fast."""

WAITING_TOKENS = 500
"""What a request that waits at a peer has to be read there, where nobody knows."""

LAST_MOMENTS_S = 3.0
"""What found no place is handed off within that time before the margin, one after another, not all at once."""

SHARED_RATE = 0.5
"""Of what a peer can read, for all nodes together that hand off to it: they come by chance, so that at its full rate
queues would grow, and its own clients ask, too."""

MIN_PREFILL_S = 0.005
MAX_PEERS = 32
"""That one node hands off to; more would only be looked at."""

FULL_WAITING = 8
"""Requests that wait at a peer, from which on others are better."""


@dataclass(frozen=True)
class ServedStream:
    """A request at this node's engine. remaining_tokens: None where it has no limit of its own.

    context_tokens: prompt and answer so far, which another engine has to read before it goes on.
    """

    key: int
    remaining_tokens: int | None
    time_per_token_s: float
    context_tokens: int = 0

    @property
    def remaining_s(self) -> float | None:
        """How long it takes here, None where nobody knows."""
        if self.remaining_tokens is None or self.time_per_token_s <= 0:
            return None
        return self.remaining_tokens * self.time_per_token_s


@dataclass(frozen=True)
class Peer:
    """A node that may take streams over: those that serve the same model."""

    status: NodeStatus
    load: Load


@dataclass(frozen=True)
class HandOff:
    """One stream's move. to: an instance id, None where there is nobody; at: unix seconds.

    crowded: no peer has a place for it in time.
    """

    key: int
    target: str | None
    at: float
    is_overflow: bool = False


@dataclass(frozen=True)
class DrainPlan:
    """finish: keys of streams that stay; due: to be handed off now, all of them; later: as it looks at the moment."""

    finish: tuple[int, ...]
    due: tuple[HandOff, ...]
    later: tuple[HandOff, ...]


def reclaimed_pools(nodes: Iterable[NodeStatus], own: Pool) -> frozenset[Pool]:
    """The pools that EC2 takes back, as far as it shows: this node's, and those of all that drain or are at risk."""
    leaving = (NodeState.AT_RISK, NodeState.DRAINING)
    return frozenset((own, *(node.pool for node in nodes if node.state in leaving)))


class DrainPlanner:
    """One node's drain. It remembers what it has given to whom, because peers' loads tell of that only later."""

    def __init__(self, own_id: str) -> None:
        self._own_id = own_id
        self._began_at: float | None = None
        self._busy_until: dict[str, float] = {}

    def plan(
        self,
        streams: Iterable[ServedStream],
        peers: Sequence[Peer],
        going: Collection[Pool],
        drainers: int,
        now: float,
        deadline: float,
    ) -> DrainPlan:
        """What to do now. now, deadline: unix seconds.

        going: the pools that are going (`reclaimed_pools`); drainers: how many nodes drain now, this one included.
        """
        finish, leaving = _split_streams(streams, deadline - now - MARGIN_S)
        peers, speeds = self._choose_peers(peers, going, drainers)
        busy = self._busy_times(peers, speeds, leaving, now)
        latest = max(now, deadline - MARGIN_S)
        due: list[HandOff] = []
        later: list[HandOff] = []
        homeless: list[ServedStream] = []
        for stream in leaving:
            hand_off = _place(stream, peers, speeds, going, busy, now, latest)
            if hand_off is None:
                homeless.append(stream)
            elif hand_off.at <= now:
                # Nothing that is due comes behind something later at the same peer, so this is what it has been given.
                self._busy_until[hand_off.target or ""] = busy[hand_off.target or ""]
                due.append(hand_off)
            else:
                later.append(hand_off)
        for hand_off in _overflow(homeless, peers, going, busy, now, latest):
            (due if hand_off.at <= now else later).append(hand_off)
        return DrainPlan(tuple(stream.key for stream in finish), tuple(due), tuple(later))

    def _choose_peers(
        self, peers: Sequence[Peer], going: Collection[Pool], drainers: int
    ) -> tuple[list[Peer], dict[str, float]]:
        """A few peers, the best kind first; and of each how many tokens a second it reads for this node.

        Every node that drains chooses as many, by chance, so that an equal share of each peer is this node's.
        """
        kinds = [(_kind(peer, going), peer.load.waiting >= FULL_WAITING) for peer in peers]
        ranked = sorted(
            zip(kinds, peers, strict=True),
            key=lambda ranked: (ranked[0], _share(f"{self._own_id} {ranked[1].status.instance_id}")),
        )
        chosen = ranked[:MAX_PEERS]
        of_kind, chosen_of_kind = Counter(kinds), Counter(kind for kind, _ in chosen)
        speeds = {}
        for kind, peer in chosen:
            sharers = drainers * chosen_of_kind[kind] / of_kind[kind]
            speeds[peer.status.instance_id] = _rate(peer) * (SHARED_RATE / sharers if sharers > 1 else 1.0)
        return [peer for _, peer in chosen], speeds

    def _busy_times(
        self, peers: Sequence[Peer], speeds: Mapping[str, float], leaving: Sequence[ServedStream], now: float
    ) -> dict[str, float]:
        """Until when each peer reads what it has, and not before this node's turn there comes for the first time."""
        self._began_at = began = now if self._began_at is None else self._began_at
        context = sum(stream.context_tokens for stream in leaving) / max(1, len(leaving))
        busy = {}
        for peer in peers:
            name = peer.status.instance_id
            others_s = context / speeds[name] - context / _rate(peer)
            turn = began + _share(f"{name} {self._own_id}") * others_s
            busy[name] = max(self._busy_until.get(name, 0.0), turn, now + _queue_s(peer))
        return busy


def _split_streams(streams: Iterable[ServedStream], room_s: float) -> tuple[list[ServedStream], list[ServedStream]]:
    """Those that finish here, and the others, the longest first."""
    finish: list[ServedStream] = []
    leaving: list[ServedStream] = []
    for stream in streams:
        left_s = stream.remaining_s
        (finish if left_s is not None and left_s < room_s else leaving).append(stream)
    leaving.sort(key=lambda stream: (-(float("inf") if stream.remaining_s is None else stream.remaining_s), stream.key))
    return finish, leaving


def _share(text: str) -> float:
    """From 0 to 1, even, and the same for the same text."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") / 2**64


def _queue_s(peer: Peer) -> float:
    """How much prefill waits at a peer, by its own account."""
    return peer.load.waiting * WAITING_TOKENS / _rate(peer)


def _rate(peer: Peer) -> float:
    return peer.load.prefill_tokens_s or PREFILL_TOKENS_S


def _kind(peer: Peer, going: Collection[Pool]) -> int:
    """0 is best: ready and elsewhere; then elsewhere; then ready."""
    return 2 * (peer.status.pool in going) + (peer.status.state is not NodeState.READY)


def _place(
    stream: ServedStream,
    peers: Sequence[Peer],
    speeds: Mapping[str, float],
    going: Collection[Pool],
    busy: dict[str, float],
    now: float,
    latest: float,
) -> HandOff | None:
    """The peer that has it read soonest, among the best kind that can in time; its time is taken in `busy`."""
    best: tuple[int, float, int, float, str] | None = None
    for peer in peers:
        name = peer.status.instance_id
        cost_s = max(MIN_PREFILL_S, stream.context_tokens / speeds[name])
        at = max(now, busy[name] + cost_s - max(BACKLOG_S, cost_s))
        if at > latest:
            continue
        choice = (_kind(peer, going), max(busy[name], at) + cost_s, peer.load.in_flight, at, name)
        if best is None or choice < best:
            best = choice
    if best is None:
        return None
    _, read_at, _, at, name = best
    busy[name] = read_at
    return HandOff(stream.key, name, at)


def _overflow(
    streams: Sequence[ServedStream],
    peers: Sequence[Peer],
    going: Collection[Pool],
    busy: dict[str, float],
    now: float,
    latest: float,
) -> list[HandOff]:
    """Those for which there is no place in time, spread over the last moments and over the peers."""
    best_kind = min((_kind(peer, going) for peer in peers), default=0)
    names = [peer.status.instance_id for peer in peers if _kind(peer, going) == best_kind]
    first = max(now, latest - LAST_MOMENTS_S)
    hand_offs = []
    for number, stream in enumerate(streams):
        to = min(names, key=lambda name: (busy[name], name), default=None)
        if to is not None:
            busy[to] += max(MIN_PREFILL_S, stream.context_tokens / PREFILL_TOKENS_S)
        at = first + (latest - first) * (number + 1) / len(streams)
        hand_offs.append(HandOff(stream.key, to, at, is_overflow=True))
    return hand_offs
