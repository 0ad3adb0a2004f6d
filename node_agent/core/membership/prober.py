"""Probes: does a node answer, itself or through others? SWIM section 3.1, with Lifeguard's nacks.

    PING ---------direct_s--------> ASK helpers, ask over a stream ----whole_s----> suspect
      ack at any time: the node lives        helpers that neither ack nor nack: perhaps it is me

A probe has a number that is never used twice in a life, so an answer to it is fresh, whoever recorded what.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from node_agent.core.membership.active_clock import ActiveClock
from node_agent.core.membership.config import GossipConfig
from node_agent.core.membership.local_health import LocalHealth
from node_agent.core.membership.member_state import accusation_of
from node_agent.core.membership.member_table import Member, MemberTable
from node_agent.core.membership.outbound import LocalNode, MessageEncoder
from node_agent.core.membership.timers import Timers
from node_agent.core.membership.wire import NOBODY, Header, Intro, Kind
from node_agent.core.node.status import Liveness

MAX_UNDER_WAY = 128
MAX_STRANGERS = 32
"""Introductions under way to be verified: whoever can record one can send it again and again."""

MAX_RELAYS = 256


class ProbeReason(Enum):
    """CHECK: suspect who is silent. GREET: see whether there is somebody. VERIFY: see who introduced itself."""

    CHECK = "check"
    GREET = "greet"
    VERIFY = "verify"


class Probe:
    """life: who has to answer, NOBODY where that is not known yet; helpers: lives asked, and whether they spoke."""

    __slots__ = ("address", "helpers", "intro", "life", "member", "number", "purpose")

    def __init__(self, number: int, purpose: ProbeReason, life: bytes, address: str) -> None:
        self.number = number
        self.purpose = purpose
        self.life = life
        self.address = address
        self.member: Member | None = None
        self.intro: Intro | None = None
        self.helpers: dict[bytes, bool] = {}


class Prober:
    """send: gets address and datagram; silent: gets members that answered nobody; over_stream: asks one that way."""

    def __init__(
        self,
        me: LocalNode,
        roster: MemberTable,
        post: MessageEncoder,
        timers: Timers,
        health: LocalHealth,
        tempo: GossipConfig,
        time: ActiveClock,
        send: Callable[[str, bytes], None],
        silent: Callable[[Member], None],
        over_stream: Callable[[Member, int], None],
    ) -> None:
        self._me = me
        self._roster = roster
        self._post = post
        self._timers = timers
        self._health = health
        self._tempo = tempo
        self._time = time
        self._send = send
        self._silent = silent
        self._over_stream = over_stream
        self._number = 0
        self._under_way: dict[int, Probe] = {}
        self._asked: set[tuple[ProbeReason, bytes]] = set()
        self._strangers = 0
        self._relays: dict[int, tuple[Member, int]] = {}

    def __len__(self) -> int:
        return len(self._under_way)

    def next_number(self) -> int:
        self._number += 1
        return self._number

    def check(self, member: Member, accusation: bytes = b"") -> None:
        """Probe a member; it hears what is held against it, so that it can refute at once (Lifeguard's buddies).

        accusation: what others hold against it, where this node does not.
        """
        probe = self._begin(ProbeReason.CHECK, member.life, member.status.peer_address)
        if probe is None:
            return
        probe.member = member
        first = accusation or accusation_of(member, self._me.life)
        if member.window is None:  # never heard itself: it may not know who asks
            self._send_probe(Kind.HELLO, probe, self._me.intro + first)
        else:
            self._send_probe(Kind.PING, probe, first)
        self._timers.set(self._time.now + self._tempo.direct_s * self._health.patience, self._ask_helpers, probe)
        self._timers.set(self._time.now + self._tempo.whole_s * self._health.patience, self._give_up, probe)

    def greet(self, address: str, life: bytes = NOBODY, accusation: bytes = b"") -> None:
        """See whether somebody answers there. accusation: what is held against that life."""
        probe = self._begin(ProbeReason.GREET, life, address)
        if probe is not None:
            self._say_hello(probe, accusation)

    def verify(self, intro: Intro) -> None:
        """See whether who introduced itself is there now, or a recording."""
        if self._strangers >= MAX_STRANGERS:
            return
        probe = self._begin(ProbeReason.VERIFY, intro.life, intro.status.peer_address)
        if probe is None:
            return
        self._strangers += 1
        probe.intro = intro
        self._say_hello(probe, b"")

    def _begin(self, purpose: ProbeReason, life: bytes, address: str) -> Probe | None:
        if len(self._under_way) >= MAX_UNDER_WAY or (purpose, life) in self._asked:
            return None
        probe = Probe(self.next_number(), purpose, life, address)
        self._under_way[probe.number] = probe
        if life != NOBODY:
            self._asked.add((purpose, life))
        return probe

    def _say_hello(self, probe: Probe, accusation: bytes) -> None:
        self._send_probe(Kind.HELLO, probe, self._me.intro + accusation)
        self._timers.set(self._time.now + self._tempo.whole_s, self._give_up, probe)

    def _send_probe(self, kind: Kind, probe: Probe, first: bytes) -> None:
        data = self._post.datagram(kind, probe.life, self._roster.nodes, probe.number, first=first)
        self._send(probe.address, data)

    def _ask_helpers(self, probe: Probe) -> None:
        if probe.number not in self._under_way or probe.member is None:
            return
        for helper in self._roster.present.some(self._tempo.helpers, without=probe.member):
            if helper.liveness is Liveness.ALIVE:
                probe.helpers[helper.life] = False
                asking = self._post.datagram(Kind.ASK, helper.life, self._roster.nodes, probe.number, target=probe.life)
                self._send(helper.status.peer_address, asking)
        self._over_stream(probe.member, probe.number)

    def _give_up(self, probe: Probe) -> None:
        if not self._settle(probe.number) or probe.member is None:
            return
        if not all(probe.helpers.values()):
            self._health.worse()
        self._silent(probe.member)

    def _settle(self, number: int) -> Probe | None:
        probe = self._under_way.pop(number, None)
        if probe is not None:
            self._asked.discard((probe.purpose, probe.life))
            self._strangers -= probe.purpose is ProbeReason.VERIFY
        return probe

    def acked(self, header: Header) -> Probe | None:
        """The probe that this is the answer to, settled now; None where there is none, or it was for a helper."""
        relay = self._relays.pop(header.probe, None)
        if relay is not None:
            asker, number = relay
            self._send(asker.status.peer_address, self._post.datagram(Kind.ACK, asker.life, self._roster.nodes, number))
            return None
        probe = self._under_way.get(header.probe)
        if probe is None:
            return None
        if header.sender != probe.life and header.sender not in probe.helpers and probe.life != NOBODY:
            return None
        if probe.purpose is ProbeReason.CHECK:
            self._health.better()
        return self._settle(probe.number)

    def nacked(self, header: Header) -> None:
        """A helper lives, and the one that it probed for us did not answer it."""
        probe = self._under_way.get(header.probe)
        if probe is not None and header.sender in probe.helpers:
            probe.helpers[header.sender] = True

    def help(self, asker: Member, header: Header, target: bytes) -> None:
        """Probe a life in the place of another node."""
        member = self._roster.by_life.get(target)
        if member is None or len(self._relays) >= MAX_RELAYS:
            self._nack(asker, header.probe)
            return
        number = self.next_number()
        self._relays[number] = (asker, header.probe)
        first = accusation_of(member, self._me.life)
        self._send(
            member.status.peer_address, self._post.datagram(Kind.PING, target, self._roster.nodes, number, first=first)
        )
        self._timers.set(self._time.now + self._tempo.direct_s, self._relay_late, number)

    def _relay_late(self, number: int) -> None:
        relay = self._relays.pop(number, None)
        if relay is not None:
            self._nack(*relay)

    def _nack(self, asker: Member, number: int) -> None:
        self._send(asker.status.peer_address, self._post.datagram(Kind.NACK, asker.life, self._roster.nodes, number))

    def forget_all(self) -> None:
        """This node was not there to hear answers: nothing under way says anything."""
        self._under_way.clear()
        self._asked.clear()
        self._relays.clear()
        self._strangers = 0
