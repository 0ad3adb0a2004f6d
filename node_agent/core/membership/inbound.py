"""What a node makes of the messages that reach it: whose they are, whether they count, what they say.

sealed? -> meant for this life? -> sender known? -> number unused? -> believed, and answered
                                    |
                                    +-- no: it is asked something first, and believed when it answers
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from node_agent.core.membership.member_state import MemberState, accusation_of
from node_agent.core.membership.member_table import Member, MemberTable
from node_agent.core.membership.outbound import LocalNode, MessageEncoder
from node_agent.core.membership.prober import Prober
from node_agent.core.membership.replay_window import ReplayWindow
from node_agent.core.membership.sync_sessions import SyncSessions
from node_agent.core.membership.wire import (
    HEADER_BYTES,
    LIFE_BYTES,
    NOBODY,
    Header,
    Intro,
    Kind,
    MessageMac,
    read_header,
    read_rumours,
    write_dead,
)
from node_agent.core.node.status import Liveness


class MessageReceiver:
    """send: gets address and datagram.

    refused: messages that were not taken, by the reason; doubts: lives of members that others hold something
    against, and what; the owner has them hear of it.
    """

    def __init__(
        self,
        me: LocalNode,
        roster: MemberTable,
        seal: MessageMac,
        post: MessageEncoder,
        beliefs: MemberState,
        prober: Prober,
        comparisons: SyncSessions,
        send: Callable[[str, bytes], None],
    ) -> None:
        self._me = me
        self._roster = roster
        self._seal = seal
        self._post = post
        self._beliefs = beliefs
        self._prober = prober
        self._comparisons = comparisons
        self._send = send
        self.refused: Counter[str] = Counter()
        self.doubts: dict[bytes, bytes] = {}

    def _open(self, message: bytes) -> tuple[Header, bytes] | None:
        content = self._seal.open(message)
        if content is None:
            self.refused["seal"] += 1
            return None
        try:
            header = read_header(content)
        except ValueError:
            self.refused["form"] += 1
            return None
        if header.sender == self._me.life:
            return None  # an echo of our own
        if header.receiver != self._me.life and (header.receiver != NOBODY or header.kind is not Kind.HELLO):
            self.refused["other life"] += 1
            return None
        return header, content

    def datagram(self, data: bytes) -> None:
        """Take a datagram in."""
        opened = self._open(data)
        if opened is None:
            return
        header, content = opened
        sender = self._roster.by_life.get(header.sender)
        try:
            if sender is None:
                self._hear_stranger(header, content)
            elif header.receiver == NOBODY:
                self._answer_hello(header, content)
            elif self._is_fresh(sender, header):
                self._hear_member(sender, header, content)
        except ValueError:
            self.refused["form"] += 1

    def _is_fresh(self, sender: Member, header: Header) -> bool:
        if sender.window is None:
            sender.window = ReplayWindow()
        if sender.window.admit(header.number):
            return True
        self.refused["seen"] += 1
        return False

    def _hear_stranger(self, header: Header, content: bytes) -> None:
        """Who is not known is not believed: it answers a question of ours first."""
        if header.kind is Kind.ACK:
            probe = self._prober.acked(header)
            intro = probe.intro if probe is not None and probe.intro else _introduction(header, content)
            if probe is not None and intro is not None:
                self._welcome(intro, header, content)
        elif header.kind is Kind.HELLO:
            self._answer_hello(header, content)
        else:
            self.refused["stranger"] += 1
            self._beliefs.knows_too_little = True

    def _welcome(self, intro: Intro, header: Header, content: bytes) -> None:
        member = self._beliefs.take_intro(intro, "answered", below=header.number)
        for rumour in read_rumours(content, HEADER_BYTES):
            if member is not None or self._beliefs.is_of_me(rumour):
                self._beliefs.take(rumour)
        if member is not None and not self._comparisons.finished:
            self._comparisons.begin(member)

    def _answer_hello(self, header: Header, content: bytes) -> None:
        """Who says hello hears who is here, and what is known of it; if it is news, it is asked back."""
        intro = _introduction(header, content)
        if intro is None:
            self.refused["form"] += 1
            return
        for rumour in read_rumours(content, HEADER_BYTES):
            if self._beliefs.is_of_me(rumour):
                self._beliefs.take(rumour)
        known = self._roster.newest_incarnation(intro.status.instance_id)
        member = self._roster.by_life.get(intro.life)
        first = self._me.intro if header.receiver == NOBODY else b""
        if member is not None:
            first += accusation_of(member, self._me.life)
        elif intro.status.incarnation <= known:
            first += write_dead(intro.life, known, self._me.life)
        self._send(intro.status.peer_address, self._reply(header, first))
        if intro.status.incarnation > known:
            self._prober.verify(intro)

    def _reply(self, header: Header, first: bytes) -> bytes:
        return self._post.datagram(Kind.ACK, header.sender, self._roster.nodes, header.probe, first=first)

    def _hear_member(self, sender: Member, header: Header, content: bytes) -> None:
        at = HEADER_BYTES + (LIFE_BYTES if header.kind is Kind.ASK else 0)
        was_dead = sender.liveness is Liveness.DEAD
        self._beliefs.was_told_old_news = False
        for rumour in read_rumours(content, at):
            self._beliefs.take(rumour)
        if self._beliefs.was_told_old_news and not self._me.has_left:
            again = self._post.datagram(Kind.GOSSIP, sender.life, self._roster.nodes, first=self._me.alive)
            self._send(sender.status.peer_address, again)
        match header.kind:
            case Kind.PING | Kind.HELLO:
                self._send(sender.status.peer_address, self._reply(header, accusation_of(sender, self._me.life)))
            case Kind.ACK:
                probe = self._prober.acked(header)
                if probe is not None and probe.intro is not None:
                    self._beliefs.take(probe.intro)
            case Kind.NACK:
                self._prober.nacked(header)
            case Kind.ASK:
                self._prober.help(sender, header, content[HEADER_BYTES:at])
            case Kind.GOSSIP:
                if accusation := accusation_of(sender, self._me.life):
                    self._prober.greet(sender.status.peer_address, sender.life, accusation)
        if was_dead and sender.liveness is Liveness.ALIVE:
            self._comparisons.begin(sender)  # it was on another side: it knows others there

    def question(self, body: bytes) -> bytes | None:
        """The answer to a comparison's question; None where it is refused."""
        opened = self._open(body)
        if opened is None or opened[0].kind is not Kind.SYNC:
            return None
        header, content = opened
        sender = self._roster.by_life.get(header.sender)
        if sender is not None and not self._is_fresh(sender, header):
            return None
        try:
            answer, doubts = self._comparisons.answer(header, content, HEADER_BYTES, believed=sender is not None)
        except ValueError:
            self.refused["form"] += 1
            return None
        self.doubts |= doubts
        return answer

    def answer(self, body: bytes) -> None:
        """Take the answer to a question of this node's in."""
        opened = self._open(body)
        if opened is None or opened[0].kind is not Kind.SYNCED:
            return
        header, content = opened
        sender = self._roster.by_life.get(header.sender)
        if sender is None or not self._is_fresh(sender, header):
            return
        self._prober.acked(header)
        try:
            self.doubts |= self._comparisons.answered(header, content, HEADER_BYTES)
        except ValueError:
            self.refused["form"] += 1


def _introduction(header: Header, content: bytes) -> Intro | None:
    """The sender's own, which comes first; None where there is none."""
    first = next(read_rumours(content, HEADER_BYTES), None)
    return first if isinstance(first, Intro) and first.life == header.sender else None
