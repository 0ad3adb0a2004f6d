"""The conversations in which tables are compared: who asked whom, which round, and what came of it."""

from __future__ import annotations

from collections.abc import Callable

from node_agent.core.membership.active_clock import ActiveClock
from node_agent.core.membership.anti_entropy import (
    MAX_ROUNDS,
    SUMMARY_BYTES,
    differing_buckets,
    local_summary,
    merge,
    read_summary,
    write_page,
    write_summary,
)
from node_agent.core.membership.member_state import MemberState
from node_agent.core.membership.member_table import Member, MemberTable
from node_agent.core.membership.outbound import LocalNode, MessageEncoder
from node_agent.core.membership.wire import Header, MessageKind, read_updates

MAX_SESSIONS = 8
RESPONSE_TIMEOUT_S = 5.0
"""How long an answer may take before the question is forgotten."""


class SyncSession:
    """One question under way. before: how many buckets differed a round ago."""

    __slots__ = ("member", "previous_differences", "rounds", "started_at")

    def __init__(self, member: Member, started_at: float, rounds: int, previous_differences: int) -> None:
        self.member = member
        self.started_at = started_at
        self.rounds = rounds
        self.previous_differences = previous_differences


class SyncSessions:
    """ask: gets the member and the sealed question; number: gives probe numbers.

    finished: how many comparisons ended with all told that there was to tell.
    """

    def __init__(
        self,
        local: LocalNode,
        table: MemberTable,
        encoder: MessageEncoder,
        member_state: MemberState,
        clock: ActiveClock,
        next_number: Callable[[], int],
        send_request: Callable[[Member, bytes], None],
    ) -> None:
        self._local = local
        self._table = table
        self._encoder = encoder
        self._member_state = member_state
        self._clock = clock
        self._next_number = next_number
        self._send_request = send_request
        self._sessions: dict[int, SyncSession] = {}
        self.completed = 0

    def __len__(self) -> int:
        return len(self._sessions)

    def start(self, member: Member, number: int | None = None) -> None:
        """Ask a member for what differs. number: of the probe that the answer settles, too."""
        now = self._clock.now
        for old, session in list(self._sessions.items()):
            if now - session.started_at > RESPONSE_TIMEOUT_S:
                del self._sessions[old]
        if len(self._sessions) < MAX_SESSIONS:
            self._send(SyncSession(member, now, 1, 0), number, b"")

    def _send(self, session: SyncSession, number: int | None, page: bytes) -> None:
        number = self._next_number() if number is None else number
        self._sessions[number] = session
        summary = write_summary(local_summary(self._table, self._local))
        self._send_request(
            session.member,
            self._encoder.encode(MessageKind.SYNC_REQUEST, session.member.boot_id, number, summary + page),
        )

    def respond(
        self, header: Header, content: bytes, at: int, *, from_member: bool
    ) -> tuple[bytes, dict[bytes, bytes]]:
        """The answer to a peer's question, and whom it doubts (see `merge`). Raises ValueError.

        at: where the summary begins; believed: whether what the question tells is taken in.
        """
        theirs = read_summary(content, at)
        accusations: dict[bytes, bytes] = {}
        if from_member:
            accusations = merge(
                read_updates(content, at + SUMMARY_BYTES), self._member_state, self._table, broadcast=True
            )
        mine = local_summary(self._table, self._local)
        page = write_page(self._table, self._local, differing_buckets(mine, theirs), header.probe)
        return self._encoder.encode(
            MessageKind.SYNC_RESPONSE, header.sender, header.probe, write_summary(mine) + page
        ), accusations

    def on_response(self, header: Header, content: bytes, at: int) -> dict[bytes, bytes]:
        """Take an answer in, and ask on while it helps; whom it doubts.

        Raises ValueError.
        """
        session = self._sessions.pop(header.probe, None)
        if session is None or session.member.boot_id != header.sender:
            return {}  # nothing was asked, or too long ago
        theirs = read_summary(content, at)
        updates = read_updates(content, at + SUMMARY_BYTES)
        accusations = merge(updates, self._member_state, self._table, broadcast=self.completed > 0)
        mine = local_summary(self._table, self._local)
        remaining = differing_buckets(mine, theirs)
        # The second round tells what the other side lacks; more rounds only while each settles something.
        converges = session.rounds == 1 or len(remaining) < session.previous_differences
        if not remaining or not converges or session.rounds >= MAX_ROUNDS:
            self.completed += 1
            return accusations
        page = write_page(self._table, self._local, remaining, header.probe)
        self._send(SyncSession(session.member, self._clock.now, session.rounds + 1, len(remaining)), None, page)
        return accusations
