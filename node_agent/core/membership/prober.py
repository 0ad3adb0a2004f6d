"""Probes: direct, indirect and over a stream. SWIM section 3.1, with Lifeguard's nacks.

    PING ----probe_timeout_s----> PING_REQ to indirect probers, probe over a stream ----probe_deadline_s----> suspect
      ack at any time: the node is alive     indirect probers that neither ack nor nack: the fault may be this node's

A probe has a number that is never used twice under a boot id, so an ack of it is fresh, whatever was recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from node_agent.core.membership.active_clock import ActiveClock
from node_agent.core.membership.config import GossipConfig
from node_agent.core.membership.local_health import LocalHealth
from node_agent.core.membership.member_state import pending_accusation
from node_agent.core.membership.member_table import Member, MemberTable
from node_agent.core.membership.outbound import LocalNode, MessageEncoder
from node_agent.core.membership.timers import Timers
from node_agent.core.membership.wire.messages import UNKNOWN_BOOT_ID, Header, MessageKind
from node_agent.core.membership.wire.updates import Intro
from node_agent.core.node.status import Liveness

MAX_PENDING = 128
MAX_VERIFICATIONS = 32
"""Introductions that are being verified: a recorded one can be sent again and again."""

MAX_RELAYS = 256


class ProbeReason(Enum):
    """Why a node is probed.

    PROBE: a member, suspected if it is silent. JOIN: an address, where a node may be. VERIFY: the sender of an
    introduction.
    """

    PROBE = "probe"
    JOIN = "join"
    VERIFY = "verify"


class Probe:
    """One pending probe.

    boot_id: whose ack counts, UNKNOWN_BOOT_ID for any; indirect_probers: boot ids that were sent a PING_REQ, and
    whether they sent a nack.
    """

    __slots__ = ("address", "boot_id", "indirect_probers", "intro", "member", "number", "reason")

    def __init__(self, number: int, reason: ProbeReason, boot_id: bytes, address: str) -> None:
        self.number = number
        self.reason = reason
        self.boot_id = boot_id
        self.address = address
        self.member: Member | None = None
        self.intro: Intro | None = None
        self.indirect_probers: dict[bytes, bool] = {}


class Prober:
    """Sends probes and relays those of others.

    send: sends a datagram to an address; on_no_ack: receives members that did not answer; probe_over_stream: probes a
    member under that number over a stream.
    """

    def __init__(
        self,
        local: LocalNode,
        table: MemberTable,
        encoder: MessageEncoder,
        timers: Timers,
        health: LocalHealth,
        config: GossipConfig,
        clock: ActiveClock,
        send: Callable[[str, bytes], None],
        on_no_ack: Callable[[Member], None],
        probe_over_stream: Callable[[Member, int], None],
    ) -> None:
        self._local = local
        self._table = table
        self._encoder = encoder
        self._timers = timers
        self._health = health
        self._config = config
        self._clock = clock
        self._send = send
        self._on_no_ack = on_no_ack
        self._probe_over_stream = probe_over_stream
        self._number = 0
        self._pending: dict[int, Probe] = {}
        self._in_progress: set[tuple[ProbeReason, bytes]] = set()
        self._verifications = 0
        self._relays: dict[int, tuple[Member, int]] = {}

    def __len__(self) -> int:
        return len(self._pending)

    def next_number(self) -> int:
        """Return a number that no probe or sync of this boot id had before."""
        self._number += 1
        return self._number

    def probe(self, member: Member, accusation: bytes = b"") -> None:
        """Probe a member, and send it the accusation against it, so that it can refute at once (Lifeguard's buddies).

        accusation: what other nodes hold against it, where this node does not.
        """
        probe = self._start(ProbeReason.PROBE, member.boot_id, member.status.peer_address)
        if probe is None:
            return
        probe.member = member
        first = accusation or pending_accusation(member, self._local.boot_id)
        if member.window is None:  # no message of it was received: it may not know this node
            self._send_probe(MessageKind.JOIN, probe, self._local.intro + first)
        else:
            self._send_probe(MessageKind.PING, probe, first)
        self._timers.schedule(
            self._clock.now + self._config.probe_timeout_s * self._health.timeout_multiplier,
            self._start_indirect_probes,
            probe,
        )
        self._timers.schedule(
            self._clock.now + self._config.probe_deadline_s * self._health.timeout_multiplier, self._on_deadline, probe
        )

    def join_probe(self, address: str, boot_id: bytes = UNKNOWN_BOOT_ID, accusation: bytes = b"") -> None:
        """Probe an address. accusation: what is held against that boot id."""
        probe = self._start(ProbeReason.JOIN, boot_id, address)
        if probe is not None:
            self._send_join(probe, accusation)

    def verify(self, intro: Intro) -> None:
        """Probe the sender of an introduction: it may be a recording."""
        if self._verifications >= MAX_VERIFICATIONS:
            return
        probe = self._start(ProbeReason.VERIFY, intro.boot_id, intro.status.peer_address)
        if probe is None:
            return
        self._verifications += 1
        probe.intro = intro
        self._send_join(probe, b"")

    def intro_to_verify(self, boot_id: bytes) -> Intro | None:
        """Return the introduction with this boot id that is being verified."""
        if (ProbeReason.VERIFY, boot_id) not in self._in_progress:
            return None
        return next((probe.intro for probe in self._pending.values() if probe.intro and probe.boot_id == boot_id), None)

    def _start(self, reason: ProbeReason, boot_id: bytes, address: str) -> Probe | None:
        if len(self._pending) >= MAX_PENDING or (reason, boot_id) in self._in_progress:
            return None
        probe = Probe(self.next_number(), reason, boot_id, address)
        self._pending[probe.number] = probe
        if boot_id != UNKNOWN_BOOT_ID:
            self._in_progress.add((reason, boot_id))
        return probe

    def _send_join(self, probe: Probe, accusation: bytes) -> None:
        self._send_probe(MessageKind.JOIN, probe, self._local.intro + accusation)
        self._timers.schedule(self._clock.now + self._config.probe_deadline_s, self._on_deadline, probe)

    def _send_probe(self, kind: MessageKind, probe: Probe, first: bytes) -> None:
        data = self._encoder.encode_datagram(kind, probe.boot_id, self._table.nodes, probe.number, first=first)
        self._send(probe.address, data)

    def _start_indirect_probes(self, probe: Probe) -> None:
        if probe.number not in self._pending or probe.member is None:
            return
        for indirect_prober in self._table.present.sample(self._config.indirect_probers, excluding=probe.member):
            if indirect_prober.liveness is Liveness.ALIVE:
                probe.indirect_probers[indirect_prober.boot_id] = False
                request = self._encoder.encode_datagram(
                    MessageKind.PING_REQ, indirect_prober.boot_id, self._table.nodes, probe.number, target=probe.boot_id
                )
                self._send(indirect_prober.status.peer_address, request)
        self._probe_over_stream(probe.member, probe.number)

    def _on_deadline(self, probe: Probe) -> None:
        if not self._finish(probe.number) or probe.member is None:
            return
        if not all(probe.indirect_probers.values()):
            self._health.increase()
        self._on_no_ack(probe.member)

    def _finish(self, number: int) -> Probe | None:
        probe = self._pending.pop(number, None)
        if probe is not None:
            self._in_progress.discard((probe.reason, probe.boot_id))
            self._verifications -= probe.reason is ProbeReason.VERIFY
        return probe

    def on_ack(self, header: Header) -> Probe | None:
        """Finish and return the probe that this acks; None where there is none, or it was relayed."""
        relay = self._relays.pop(header.probe, None)
        if relay is not None:
            requester, number = relay
            self._send(
                requester.status.peer_address,
                self._encoder.encode_datagram(MessageKind.ACK, requester.boot_id, self._table.nodes, number),
            )
            return None
        probe = self._pending.get(header.probe)
        if probe is None:
            return None
        if (
            header.sender != probe.boot_id
            and header.sender not in probe.indirect_probers
            and probe.boot_id != UNKNOWN_BOOT_ID
        ):
            return None
        if probe.reason is ProbeReason.PROBE:
            self._health.decrease()
        return self._finish(probe.number)

    def on_nack(self, header: Header) -> None:
        """Count a nack: the indirect prober is alive, and the target did not answer it."""
        probe = self._pending.get(header.probe)
        if probe is not None and header.sender in probe.indirect_probers:
            probe.indirect_probers[header.sender] = True

    def relay_probe(self, requester: Member, header: Header, target: bytes) -> None:
        """Probe a member for another node."""
        member = self._table.by_boot_id.get(target)
        if member is None or len(self._relays) >= MAX_RELAYS:
            self._send_nack(requester, header.probe)
            return
        number = self.next_number()
        self._relays[number] = (requester, header.probe)
        first = pending_accusation(member, self._local.boot_id)
        self._send(
            member.status.peer_address,
            self._encoder.encode_datagram(MessageKind.PING, target, self._table.nodes, number, first=first),
        )
        self._timers.schedule(self._clock.now + self._config.probe_timeout_s, self._on_relay_timeout, number)

    def _on_relay_timeout(self, number: int) -> None:
        relay = self._relays.pop(number, None)
        if relay is not None:
            self._send_nack(*relay)

    def _send_nack(self, requester: Member, number: int) -> None:
        self._send(
            requester.status.peer_address,
            self._encoder.encode_datagram(MessageKind.NACK, requester.boot_id, self._table.nodes, number),
        )

    def cancel_all(self) -> None:
        """Cancel all probes: this node did not run, so it may have missed their acks."""
        self._pending.clear()
        self._in_progress.clear()
        self._relays.clear()
        self._verifications = 0
