"""The conversations in which tables are compared: who asked whom, which round, and what came of it."""

from __future__ import annotations

from collections.abc import Callable

from node_agent.core.membership.active_clock import ActiveClock
from node_agent.core.membership.anti_entropy import (
    MAX_ROUNDS,
    SUMMARY_BYTES,
    differing,
    merge,
    page,
    read_summary,
    summary_of,
    write_summary,
)
from node_agent.core.membership.member_state import MemberState
from node_agent.core.membership.member_table import Member, MemberTable
from node_agent.core.membership.outbound import LocalNode, MessageEncoder
from node_agent.core.membership.wire import Header, Kind, read_rumours

MAX_AT_ONCE = 8
PATIENCE_S = 5.0
"""How long an answer may take before the question is forgotten."""


class SyncSession:
    """One question under way. before: how many buckets differed a round ago."""

    __slots__ = ("before", "began", "member", "rounds")

    def __init__(self, member: Member, began: float, rounds: int, before: int) -> None:
        self.member = member
        self.began = began
        self.rounds = rounds
        self.before = before


class SyncSessions:
    """ask: gets the member and the sealed question; number: gives probe numbers.

    finished: how many comparisons ended with all told that there was to tell.
    """

    def __init__(
        self,
        me: LocalNode,
        roster: MemberTable,
        post: MessageEncoder,
        beliefs: MemberState,
        time: ActiveClock,
        number: Callable[[], int],
        ask: Callable[[Member, bytes], None],
    ) -> None:
        self._me = me
        self._roster = roster
        self._post = post
        self._beliefs = beliefs
        self._time = time
        self._number = number
        self._ask = ask
        self._under_way: dict[int, SyncSession] = {}
        self.finished = 0

    def __len__(self) -> int:
        return len(self._under_way)

    def begin(self, member: Member, number: int | None = None) -> None:
        """Ask a member for what differs. number: of the probe that the answer settles, too."""
        now = self._time.now
        for old, comparison in list(self._under_way.items()):
            if now - comparison.began > PATIENCE_S:
                del self._under_way[old]
        if len(self._under_way) < MAX_AT_ONCE:
            self._question(SyncSession(member, now, 1, 0), number, b"")

    def _question(self, comparison: SyncSession, number: int | None, told: bytes) -> None:
        number = self._number() if number is None else number
        self._under_way[number] = comparison
        summary = write_summary(summary_of(self._roster, self._me))
        self._ask(comparison.member, self._post.message(Kind.SYNC, comparison.member.life, number, summary + told))

    def answer(self, header: Header, content: bytes, at: int, *, believed: bool) -> tuple[bytes, dict[bytes, bytes]]:
        """The answer to a peer's question, and whom it doubts (see `merge`). Raises ValueError.

        at: where the summary begins; believed: whether what the question tells is taken in.
        """
        theirs = read_summary(content, at)
        doubts: dict[bytes, bytes] = {}
        if believed:
            doubts = merge(read_rumours(content, at + SUMMARY_BYTES), self._beliefs, self._roster, tell=True)
        mine = summary_of(self._roster, self._me)
        told = page(self._roster, self._me, differing(mine, theirs), header.probe)
        return self._post.message(Kind.SYNCED, header.sender, header.probe, write_summary(mine) + told), doubts

    def answered(self, header: Header, content: bytes, at: int) -> dict[bytes, bytes]:
        """Take an answer in, and ask on while it helps; whom it doubts.

        Raises ValueError.
        """
        comparison = self._under_way.pop(header.probe, None)
        if comparison is None or comparison.member.life != header.sender:
            return {}  # nothing was asked, or too long ago
        theirs = read_summary(content, at)
        rumours = read_rumours(content, at + SUMMARY_BYTES)
        doubts = merge(rumours, self._beliefs, self._roster, tell=self.finished > 0)
        mine = summary_of(self._roster, self._me)
        rest = differing(mine, theirs)
        # The second round tells what the other side lacks; more rounds only while each settles something.
        helps = comparison.rounds == 1 or len(rest) < comparison.before
        if not rest or not helps or comparison.rounds >= MAX_ROUNDS:
            self.finished += 1
            return doubts
        told = page(self._roster, self._me, rest, header.probe)
        self._question(SyncSession(comparison.member, self._time.now, comparison.rounds + 1, len(rest)), None, told)
        return doubts
