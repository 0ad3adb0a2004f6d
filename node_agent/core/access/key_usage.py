"""Count what one key uses in the whole fleet, and admit or refuse its next request.

A node counts what it admits itself; of its peers it has the last reports (`peer_usage`), received by gossip. From
both follows what remains of each limit, and from `usage_share` how much of that this node may take before it has the
next reports.

    new --every limit has room, and this node's share--> admitted --answered--> closed: what was reserved is returned
        --room, but no share of it yet--> waits until the peers' demands are known (`Wait`)
        --no room--> refused, with the time after which to try again

Rules kept here: a request that began is never refused, cut or counted again, however much it uses (`resume`); counts of
a peer that stopped reporting age out within the window; a count never becomes negative.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b

from node_agent.core.access.caller import KeyLimits
from node_agent.core.access.peer_usage import NOTHING, FleetShape, PeerUsage, UsageReport
from node_agent.core.access.usage_share import ONLY_DEMAND, WHOLE, Share, may_take, new_share, settled_share
from node_agent.core.access.window import MINUTE_S, Window

DIGEST_BYTES = 8
DEMAND_S = 10.0
"""A node's demand is what was requested of it in that time; without any it is new again at its next request."""

MIN_RETRY_S = 1.0


class Limit(StrEnum):
    """What a key may use a bounded amount of."""

    REQUESTS = "requests"
    TOKENS = "tokens"
    STREAMS = "streams"


@dataclass(frozen=True, slots=True)
class Admitted:
    """The request may begin."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The request may not begin. retry_after_s: None where another try would end the same."""

    limit: Limit
    allowed: int
    used: int
    cost: int
    retry_after_s: float | None


@dataclass(frozen=True, slots=True)
class Wait:
    """The fleet has room, and whether a part of it is this node's is not known yet. Decide again shortly.

    refusal: for a request that cannot wait longer.
    """

    refusal: Refused


Decision = Admitted | Wait | Refused
_ADMITTED = Admitted()


@dataclass(slots=True)
class Use:
    """What one admitted request has counted so far.

    Attributes:
        at: When it was admitted.
        prompt: The tokens counted for its prompt.
        reserved: The tokens of its answer that are reserved and not generated yet.
        generated: The tokens of its answer that are counted.
        is_open: Whether it counts as an open stream.
    """

    at: float
    prompt: int
    reserved: int
    generated: int = 0
    is_open: bool = True


def digest_of(key_id: str) -> bytes:
    """Return the name under which nodes report a key."""
    return blake2b(key_id.encode(), digest_size=DIGEST_BYTES).digest()


class KeyUsage:
    """The usage of one key, by the counts that one node has. Instants are the owner's, in seconds from 0 on.

    digest: the key's name in reports; streams: how many are open here; peers: their reports.
    """

    __slots__ = (
        "_demand_since",
        "_demanded",
        "_known",
        "_minute",
        "_opened",
        "_reported",
        "_reserved",
        "_settle_s",
        "_taken",
        "digest",
        "limits",
        "peers",
        "streams",
    )  # fmt: skip

    def __init__(self, digest: bytes, limits: KeyLimits) -> None:
        self.digest = digest
        self.limits = limits
        self.peers = PeerUsage()
        self.streams = 0
        self._reserved = 0
        self._minute = Window(MINUTE_S)  # requests and tokens
        self._demanded = Window(DEMAND_S)  # the same, as clients sent them
        self._taken = Window(DEMAND_S)  # the same, as they were admitted
        self._opened = Window(DEMAND_S)  # streams that are open
        self._demand_since = 0.0
        self._settle_s = 0.0
        self._reported: deque[tuple[float, int, int]] = deque()
        self._known = (1, 1)
        """This node's demands of requests and tokens that all peers have: the least that it reported in a settle time.
        A demand that has just grown would else be too large a part of the demands that peers have."""

    # requests

    def demand(self, at: float, cost: int) -> bool:
        """Record a client's request, once, before `decide`. cost: its estimated tokens.

        Returns:
            Whether it is the first for a while, so that peers have no report of the demand here.
        """
        demanded = self._demanded
        demanded.expire(at)
        is_first = not demanded.first
        if is_first:
            self._demand_since = at
        demanded.add(at, 1, cost)
        return is_first

    def decide(self, at: float, cost: int, shape: FleetShape) -> Decision:
        """Decide whether a request may begin. cost: its estimated tokens, at least 1."""
        limits, sums, taken = self.limits, self.peers.count(at, shape), self._taken
        self._minute.expire(at)
        taken.expire(at)
        self._settle_s = shape.settle_s
        share = self._share(at, shape)
        wait: Wait | None = None
        # What was taken in DEMAND_S is at least what was taken in a settle time, and known without summing it.
        if (allowed := limits.requests_per_minute) is not None:
            used = self._minute.first + sums.requests
            if not share.surely_has(allowed - used, taken.first + 1):
                recent = taken.since(at, shape.settle_s)[0]
                decision = self._judge(at, Limit.REQUESTS, allowed, used, 1, recent, share)
                if isinstance(decision, Refused):
                    return decision
                wait = decision
        if (allowed := limits.tokens_per_minute) is not None:
            used = self._minute.second + self._reserved + sums.tokens
            share_of_tokens = self._tokens_share(share) if sums.demanded_tokens else share
            if not share_of_tokens.surely_has(allowed - used, taken.second + cost):
                recent = taken.since(at, shape.settle_s)[1]
                decision = self._judge(at, Limit.TOKENS, allowed, used, cost, recent, share_of_tokens)
                if isinstance(decision, Refused):
                    return decision
                wait = wait or decision
        if (allowed := limits.streams) is not None:
            used = self.streams + sums.streams
            if not share.surely_has(allowed - used, self.streams + 1):
                recent = self._opened.since(at, shape.settle_s)[0]
                decision = self._judge(at, Limit.STREAMS, allowed, used, 1, recent, share)
                if isinstance(decision, Refused):
                    return decision
                wait = wait or decision
        return wait or _ADMITTED

    def _judge(
        self, at: float, limit: Limit, allowed: int, used: int, cost: int, recent: int, share: Share
    ) -> Wait | Refused | None:
        """Judge one limit; None where it has room."""
        room = allowed - used
        if may_take(room, recent, cost, share):
            return None
        if room >= cost:
            return Wait(Refused(limit, allowed, used, cost, MIN_RETRY_S))
        retry_after_s = None if cost > allowed else self._retry_after_s(at, limit, cost - room, allowed)
        return Refused(limit, allowed, used, cost, retry_after_s)

    def wait_in_line(self, at: float, cost: int) -> Wait:
        """Return the decision for a request that could begin, while others that came before it wait."""
        limits = self.limits
        for limit, allowed, of_it in (
            (Limit.REQUESTS, limits.requests_per_minute, 1),
            (Limit.TOKENS, limits.tokens_per_minute, cost),
        ):
            if allowed is not None:
                return Wait(Refused(limit, allowed, self.used(at, limit), of_it, MIN_RETRY_S))
        return Wait(Refused(Limit.STREAMS, limits.streams or 0, self.used(at, Limit.STREAMS), 1, MIN_RETRY_S))

    def may_hold(self, at: float, held: int, cost: int) -> bool:
        """Return whether a request may wait for its share. held: how many wait here; cost: its estimated tokens.

        No more wait than what remains of the limits can serve, so that those beyond are refused at once.
        """
        limits, held = self.limits, held + 1
        requests, tokens, streams = limits.requests_per_minute, limits.tokens_per_minute, limits.streams
        return (
            (requests is None or held <= requests - self.used(at, Limit.REQUESTS))
            and (tokens is None or held * cost <= tokens - self.used(at, Limit.TOKENS))
            and (streams is None or held <= streams - self.used(at, Limit.STREAMS))
        )

    def admit(self, at: float, prompt: int, answer: int) -> Use:
        """Count a request that begins. prompt, answer: its estimated tokens."""
        self._minute.add(at, 1, prompt)
        self._taken.add(at, 1, prompt + answer)
        if self.limits.streams is not None:
            self._opened.expire(at)
            self._opened.add(at, 1)
        self._reserved += answer
        self.streams += 1
        return Use(at, prompt, answer)

    def resume(self, at: float) -> Use:
        """Count a stream that began earlier, maybe at another node: it is open here, and was admitted once."""
        self.streams += 1
        return Use(at, 0, 0)

    def generated(self, at: float, use: Use, tokens: int) -> None:
        """Count the tokens of an answer. tokens: of the whole answer so far."""
        more = tokens - use.generated
        if more <= 0:
            return
        use.generated = tokens
        self._minute.add(at, 0, more)
        returned = min(more, use.reserved)
        use.reserved -= returned
        self._reserved -= returned

    def close(self, at: float, use: Use, tokens: int = 0, prompt: int | None = None) -> None:
        """End a request, and return what it had reserved.

        tokens: of its whole answer; prompt: of its prompt as an engine counted them, where known.
        """
        if not use.is_open:
            return
        use.is_open = False
        self.streams -= 1
        self._reserved -= use.reserved
        more = max(0, tokens - use.generated)
        if prompt is not None and use.prompt:
            more += prompt - use.prompt
        if more:
            self._minute.add(at, 0, more)
        if self.limits.streams is not None:
            self._opened.take_back(use.at, 1)

    def undo(self, at: float, use: Use) -> None:
        """Return all that a request counted, because no engine took it."""
        if use.is_open:
            self._minute.take_back(use.at, 1, use.prompt)
            self._taken.take_back(use.at, 1, use.prompt + use.reserved)
            self.close(at, use)

    # figures

    def used(self, at: float, limit: Limit) -> int:
        """Return what the fleet uses, by all counts that this node has."""
        peers, minute = self.peers.sums, self._minute
        if limit is Limit.STREAMS:
            return self.streams + peers.streams
        minute.expire(at)
        if limit is Limit.REQUESTS:
            return minute.first + peers.requests
        return minute.second + self._reserved + peers.tokens

    def remaining(self, limit: Limit) -> int:
        """Return what remains of a minute's limit that the key has, as of the last decision or `used`."""
        peers, minute, limits = self.peers.sums, self._minute, self.limits
        if limit is Limit.REQUESTS:
            return max(0, (limits.requests_per_minute or 0) - minute.first - peers.requests)
        return max(0, (limits.tokens_per_minute or 0) - minute.second - self._reserved - peers.tokens)

    def reset_after_s(self, at: float) -> float:
        """Return the seconds until nothing of a minute's limits is used, if nothing more is requested."""
        self._minute.expire(at)
        if self._reserved or self.peers.sums.requests or self.peers.sums.tokens:
            return MINUTE_S
        return self._minute.empties_after_s(at)

    def _retry_after_s(self, at: float, limit: Limit, missing: int, allowed: int) -> float:
        """Estimate when a request has room. missing: how much has to become free."""
        if limit is Limit.STREAMS:
            return MIN_RETRY_S
        peers = self.peers.sums.tokens if limit is Limit.TOKENS else self.peers.sums.requests
        after_s = self._minute.frees_after_s(at, missing, int(limit is Limit.TOKENS))
        if after_s is None or (peers and after_s > MINUTE_S * missing / allowed):
            after_s = MINUTE_S * missing / allowed  # the peers' part leaves, too, and when is not known here
        return min(MINUTE_S, max(MIN_RETRY_S, after_s))

    def report(self, at: float) -> UsageReport:
        """Return what this node reports."""
        self._minute.expire(at)
        self._demanded.expire(at)
        demanded, tokens = self._demanded.first, self._demanded.second
        reported = self._reported
        while len(reported) > 1 and reported[1][0] <= at - self._settle_s:
            reported.popleft()
        reported.append((at, demanded, tokens))
        self._known = (max(1, min(each[1] for each in reported)), max(1, min(each[2] for each in reported)))
        used = max(0, self._minute.second) + self._reserved
        return UsageReport(max(0, self._minute.first), used, self.streams, demanded, tokens)

    def is_idle(self, at: float) -> bool:
        """Return whether nothing is counted, here or at a peer."""
        return self.peers.is_empty(at) and self.report(at) == NOTHING

    # shares

    def _share(self, at: float, shape: FleetShape) -> Share:
        """Return this node's share of requests and streams."""
        nodes = len(shape.nodes)
        if nodes <= 1:
            return WHOLE
        others = self.peers.sums.demanded
        if at - self._demand_since < shape.settle_s:
            rank = (shape.rank + self.digest[0]) % nodes
            return new_share(rank, nodes, others_demand=others > 0)
        if not others:
            return ONLY_DEMAND
        own = self._known[0]
        return settled_share(own, own + others, self.peers.place, int(at / shape.settle_s))

    def _tokens_share(self, share: Share) -> Share:
        """Return this node's share of tokens: in proportion to the tokens that were requested."""
        if not share.by_demand:
            return share
        own = self._known[1]
        return share._replace(own=own, total=own + self.peers.sums.demanded_tokens)
