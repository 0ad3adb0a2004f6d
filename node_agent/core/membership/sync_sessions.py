"""The sessions in which two nodes sync their tables: the requests, the rounds, and their end."""

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
from node_agent.core.membership.wire.messages import Header, MessageKind
from node_agent.core.membership.wire.updates import read_updates

MAX_SESSIONS = 8
RESPONSE_TIMEOUT_S = 5.0
"""How long a response may take before its session is dropped."""


class _SyncSession:
    """One request that waits for its response. previous_differences: how many buckets differed a round ago."""

    __slots__ = ("member", "previous_differences", "rounds", "started_at")

    def __init__(self, member: Member, started_at: float, rounds: int, previous_differences: int) -> None:
        self.member = member
        self.started_at = started_at
        self.rounds = rounds
        self.previous_differences = previous_differences


class SyncSessions:
    """Starts sessions, and answers those of peers.

    send_request: sends an authenticated request to a member; next_number: returns probe numbers. completed: how many
    sessions ended with nothing left to send.
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
        self._sessions: dict[int, _SyncSession] = {}
        self.completed = 0

    def __len__(self) -> int:
        return len(self._sessions)

    def start(self, member: Member, number: int | None = None) -> None:
        """Start a session with a member. number: of the probe that the response also acks."""
        now = self._clock.now
        for old, session in list(self._sessions.items()):
            if now - session.started_at > RESPONSE_TIMEOUT_S:
                del self._sessions[old]
        if len(self._sessions) < MAX_SESSIONS:
            self._send(_SyncSession(member, now, 1, 0), number, b"")

    def _send(self, session: _SyncSession, number: int | None, page: bytes) -> None:
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
        """Return the response to a peer's request, and the accusations in the request (see `merge`). Raises ValueError.

        at: where the summary begins; from_member: False leaves the request's updates unapplied.
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
        """Apply a response, and send the next request while that reduces the differences.

        at: where the response's summary begins. Raises ValueError where it cannot be decoded.

        Returns:
            The accusations in it (see `merge`); none where it belongs to no session.
        """
        session = self._sessions.pop(header.probe, None)
        if session is None or session.member.boot_id != header.sender:
            return {}  # no request was sent, or its session was dropped
        theirs = read_summary(content, at)
        updates = read_updates(content, at + SUMMARY_BYTES)
        accusations = merge(updates, self._member_state, self._table, broadcast=self.completed > 0)
        mine = local_summary(self._table, self._local)
        remaining = differing_buckets(mine, theirs)
        # The second round sends what the other side lacks; further rounds only while each reduces the differences.
        converges = session.rounds == 1 or len(remaining) < session.previous_differences
        if not remaining or not converges or session.rounds >= MAX_ROUNDS:
            self.completed += 1
            return accusations
        page = write_page(self._table, self._local, remaining, header.probe)
        self._send(_SyncSession(session.member, self._clock.now, session.rounds + 1, len(remaining)), None, page)
        return accusations
