"""Handles the messages that reach this node: authentic, for this boot id, new; then applied, and answered.

MAC valid? -> for this boot id? -> sender known? -> number unused? -> apply the updates, and answer
                                       |
                                       +-- no: it is probed first, and added when it answers
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

from node_agent.core.membership.change_reason import Cause
from node_agent.core.membership.member_state import MemberState, pending_accusation
from node_agent.core.membership.member_table import Member, MemberTable
from node_agent.core.membership.message_keys import MessageKeys
from node_agent.core.membership.outbound import LocalNode, MessageEncoder
from node_agent.core.membership.prober import Prober
from node_agent.core.membership.replay_window import ReplayWindow
from node_agent.core.membership.sync_sessions import SyncSessions
from node_agent.core.membership.wire.messages import (
    BOOT_ID_BYTES,
    HEADER_BYTES,
    UNKNOWN_BOOT_ID,
    Header,
    MessageKind,
    MessageMacs,
    read_header,
)
from node_agent.core.membership.wire.updates import Intro, Loads, Refusal, Update, read_updates, write_dead
from node_agent.core.node.status import Liveness

_MAX_ACCUSATIONS = 16


class _Verified(NamedTuple):
    """An authentic message. sender: the member that it is from; None where it has no member's key."""

    header: Header
    content: bytes
    sender: Member | None


class MessageReceiver:
    """Receives datagrams, sync requests and sync responses.

    send: sends a datagram to an address. rejected: how many messages were dropped, by reason.
    """

    def __init__(
        self,
        local: LocalNode,
        table: MemberTable,
        keys: MessageKeys,
        macs: MessageMacs,
        encoder: MessageEncoder,
        member_state: MemberState,
        prober: Prober,
        sync_sessions: SyncSessions,
        send: Callable[[str, bytes], None],
    ) -> None:
        self._local = local
        self._table = table
        self._keys = keys
        self._macs = macs
        self._encoder = encoder
        self._member_state = member_state
        self._prober = prober
        self._sync_sessions = sync_sessions
        self._send = send
        self.rejected: Counter[str] = Counter()
        self._accusations: dict[bytes, bytes] = {}
        """Those that other nodes hold against members that are alive here, by their boot ids."""

    def _verify(self, message: bytes) -> _Verified | None:
        """Verify that a message is authentic, and for this boot id. None where it is not: the reason is counted."""
        try:
            header = read_header(message)
        except ValueError:
            is_authentic = self._macs.verify(self._keys.of(None), message) is not None
            self.rejected["malformed" if is_authentic else "mac"] += 1
            return None
        if header.sender == self._local.boot_id:
            return None  # this node's own message
        is_join = header.kind is MessageKind.JOIN
        is_for_local = header.receiver == self._local.boot_id
        sender = self._table.by_boot_id.get(header.sender)
        if sender is not None and self._table.is_shut_out(sender.status.instance_id):
            self.rejected["shut out"] += 1
            return None
        content = self._macs.verify(self._keys_of(header, sender), message)
        if content is not None:
            is_members = sender is not None
        elif is_join:
            content, is_members = self._macs.verify(self._keys.of(None), message), False
        if content is None:
            self._on_unverified(header, sender)
            return None
        if not is_for_local and not (is_join and header.receiver == UNKNOWN_BOOT_ID):
            self.rejected["other boot id"] += 1
            return None
        return _Verified(header, content, sender if is_members else None)

    def _keys_of(self, header: Header, sender: Member | None) -> Iterator[bytes]:
        """Yield the keys that a message may have."""
        if sender is not None:
            yield from self._keys.of(sender.status)
            return
        intro = self._prober.intro_to_verify(header.sender) if header.kind is MessageKind.ACK else None
        if intro is not None:
            yield from self._keys.of(intro.status)
        yield from self._keys.of(None)

    def _on_unverified(self, header: Header, sender: Member | None) -> None:
        """Count a message whose MAC no key has.

        One for this boot id may be from a member that is not in this table yet: a sync adds it. Syncs for
        such messages are bounded in time (`sync_schedule`).
        """
        is_unknown = sender is None and header.receiver == self._local.boot_id
        self.rejected["unknown sender" if is_unknown else "mac"] += 1
        if is_unknown:
            self._member_state.sync_needed = True

    def on_datagram(self, data: bytes) -> None:
        """Handle a datagram."""
        verified = self._verify(data)
        if verified is None:
            return
        header, content, sender = verified
        try:
            if sender is None:
                self._on_unknown_sender(header, content)
            elif header.receiver == UNKNOWN_BOOT_ID:
                self._on_join(header, content)
            elif self._is_fresh(sender, header):
                self._on_member_message(sender, header, content)
        except ValueError:
            self.rejected["malformed"] += 1

    def _is_fresh(self, sender: Member, header: Header) -> bool:
        if sender.window is None:
            sender.window = ReplayWindow()
        if sender.window.accept(header.number):
            return True
        self.rejected["replayed"] += 1
        return False

    def _on_unknown_sender(self, header: Header, content: bytes) -> None:
        """Handle an unknown sender's message: nothing of it is applied before it has answered a probe of this node."""
        if header.kind is MessageKind.ACK:
            probe = self._prober.on_ack(header)
            intro = probe.intro if probe is not None and probe.intro else _sender_intro(header, content)
            if probe is not None and intro is not None:
                self._add_verified(intro, header, content)
        elif header.kind is MessageKind.JOIN:
            self._on_join(header, content)
        else:
            self.rejected["unknown sender"] += 1
            self._member_state.sync_needed = True

    def _add_verified(self, intro: Intro, header: Header, content: bytes) -> None:
        member = self._member_state.apply_intro(intro, Cause.ANSWERED, seen_up_to=header.number)
        for update in read_updates(content, HEADER_BYTES):
            if (member is not None and self._may_report(member, update)) or self._member_state.is_about_local_node(
                update
            ):
                self._member_state.apply(update)
        if member is not None and not self._sync_sessions.completed:
            self._sync_sessions.start(member)

    def _may_report(self, sender: Member, update: Update) -> bool:
        """Return whether a member's update counts: of a node that EC2 does not vouch for only what is about itself.

        What such a node holds against this one counts, too: this node refutes it.
        """
        if sender.is_vouched:
            return True
        if isinstance(update, Loads | Refusal):
            return False
        return update.boot_id == sender.boot_id or self._member_state.is_about_local_node(update)

    def _on_join(self, header: Header, content: bytes) -> None:
        """Answer with this node's introduction and any accusation of the sender; verify a new sender."""
        intro = _sender_intro(header, content)
        if intro is None:
            self.rejected["malformed"] += 1
            return
        if self._table.is_shut_out(intro.status.instance_id):
            self.rejected["shut out"] += 1
            return
        for update in read_updates(content, HEADER_BYTES):
            if self._member_state.is_about_local_node(update):
                self._member_state.apply(update)
        known = self._table.newest_incarnation(intro.status.instance_id)
        member = self._table.by_boot_id.get(intro.boot_id)
        first = self._local.intro if header.receiver == UNKNOWN_BOOT_ID else b""
        if member is not None:
            first += pending_accusation(member, self._local.boot_id)
        elif intro.status.incarnation <= known:
            first += write_dead(intro.boot_id, known, self._local.boot_id)
        answer = self._encoder.encode_answer_to_join(header, self._table.nodes, first, intro)
        self._send(intro.status.peer_address, answer)
        if intro.status.incarnation > known:
            self._prober.verify(intro)

    def _ack(self, header: Header, first: bytes) -> bytes:
        return self._encoder.encode_datagram(
            MessageKind.ACK, header.sender, self._table.nodes, header.probe, first=first
        )

    def _on_member_message(self, sender: Member, header: Header, content: bytes) -> None:
        at = HEADER_BYTES + (BOOT_ID_BYTES if header.kind is MessageKind.PING_REQ else 0)
        was_dead = sender.liveness is Liveness.DEAD
        self._member_state.received_stale_accusation = False
        for update in read_updates(content, at):
            if self._may_report(sender, update):
                self._member_state.apply(update)
        if self._member_state.received_stale_accusation and not self._local.has_left:
            again = self._encoder.encode_datagram(
                MessageKind.GOSSIP, sender.boot_id, self._table.nodes, first=self._local.alive
            )
            self._send(sender.status.peer_address, again)
        match header.kind:
            case MessageKind.PING | MessageKind.JOIN:
                self._send(
                    sender.status.peer_address, self._ack(header, pending_accusation(sender, self._local.boot_id))
                )
            case MessageKind.ACK:
                probe = self._prober.on_ack(header)
                if probe is not None and probe.intro is not None:
                    self._member_state.apply(probe.intro)
            case MessageKind.NACK:
                self._prober.on_nack(header)
            case MessageKind.PING_REQ:
                self._prober.relay_probe(sender, header, content[HEADER_BYTES:at])
            case MessageKind.GOSSIP:
                if accusation := pending_accusation(sender, self._local.boot_id):
                    self._prober.join_probe(sender.status.peer_address, sender.boot_id, accusation)
        if was_dead and sender.liveness is Liveness.ALIVE:
            self._sync_sessions.start(sender)  # it was on another side of a partition: it knows other nodes there

    def on_sync_request(self, body: bytes) -> bytes | None:
        """Return the response to a sync request; None where the request is rejected."""
        verified = self._verify(body)
        if verified is None or verified.header.kind is not MessageKind.SYNC_REQUEST:
            return None
        header, content, sender = verified
        if sender is not None and not self._is_fresh(sender, header):
            return None
        try:
            response, accusations = self._sync_sessions.respond(
                header, content, HEADER_BYTES, from_member=sender is not None and sender.is_vouched
            )
        except ValueError:
            self.rejected["malformed"] += 1
            return None
        self._accusations |= accusations
        return response

    def on_sync_response(self, body: bytes) -> None:
        """Handle the response to a sync request of this node."""
        verified = self._verify(body)
        if verified is None or verified.header.kind is not MessageKind.SYNC_RESPONSE:
            return
        header, content, sender = verified
        if sender is None or not self._is_fresh(sender, header):
            return
        self._prober.on_ack(header)
        if not sender.is_vouched:
            return
        try:
            self._accusations |= self._sync_sessions.on_response(header, content, HEADER_BYTES)
        except ValueError:
            self.rejected["malformed"] += 1

    def send_accusations(self) -> None:
        """Send accused members what other nodes hold against them, at most _MAX_ACCUSATIONS: they can refute it."""
        for boot_id in list(self._accusations)[:_MAX_ACCUSATIONS]:
            accusation = self._accusations.pop(boot_id)
            member = self._table.by_boot_id.get(boot_id)
            if member is not None and member.liveness is Liveness.ALIVE:
                self._prober.probe(member, accusation)


def _sender_intro(header: Header, content: bytes) -> Intro | None:
    """Return the sender's own introduction, which comes first in a message; None where there is none."""
    first = next(read_updates(content, HEADER_BYTES), None)
    return first if isinstance(first, Intro) and first.boot_id == header.sender else None
