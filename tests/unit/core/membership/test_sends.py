"""The machine's messages, event by event: receiver, kind and content."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from node_agent.core.failure.loss import LossReason
from node_agent.core.membership import (
    Effect,
    Leaving,
    MemberChanged,
    Membership,
    NodesDiscovered,
    PeerRequestFailed,
    Received,
    Send,
    SendSync,
    Tick,
)
from node_agent.core.membership.prober import MAX_VERIFICATIONS
from node_agent.core.membership.wire.messages import (
    HEADER_BYTES,
    UNKNOWN_BOOT_ID,
    Header,
    MessageKind,
    MessageMac,
    read_header,
    write_header,
)
from node_agent.core.membership.wire.updates import Dead, Left, Suspect, Update, read_updates, write_intro
from node_agent.core.node.status import Liveness, TaggedNode
from sim.fleet import KEY, status_of

MAC = MessageMac(KEY)


def boot_id(number: int) -> bytes:
    return number.to_bytes(6, "big")


def machine(*members: int, seed: int = 1) -> Membership:
    """Node 1 at instant 0, which has met those."""
    made = Membership(status_of(1, 1_000), boot_id(1), KEY, 0.0, random.Random(seed).random)
    for number in members:
        made.add_member(boot_id(number), status_of(number, 1_000))
    return made


def until(made: Membership, instant: float) -> list[tuple[float, Effect]]:
    """All that it does by itself up to then, with the instants."""
    done: list[tuple[float, Effect]] = []
    while (due := made.next_deadline()) <= instant:
        done += [(due, effect) for effect in made.handle(Tick(due))]
    return done


def read(data: bytes) -> tuple[Header, list[Update]]:
    content = MAC.verify(data)
    assert content is not None
    return read_header(content), list(read_updates(content, HEADER_BYTES))


def hello(number: int, incarnation: int = 1_000, sent: int = 1) -> bytes:
    """Return the JOIN of an unknown node."""
    header = Header(MessageKind.JOIN, boot_id(number), UNKNOWN_BOOT_ID, sent, 1)
    return MAC.append(write_header(header) + write_intro(boot_id(number), status_of(number, incarnation)))


def gossip(sender: int, to: int, updates: bytes, sent: int = 1) -> bytes:
    return MAC.append(write_header(Header(MessageKind.GOSSIP, boot_id(sender), boot_id(to), sent, 0)) + updates)


def sends(effects: tuple[Effect, ...]) -> list[Send]:
    return [effect for effect in effects if isinstance(effect, Send)]


def test_the_next_on_the_ring_is_probed_every_second_and_the_others_in_turn() -> None:
    """A dead node is therefore probed within a second by at least one node, however large the fleet."""
    made = machine(*range(2, 62))
    probed: Counter[str] = Counter()
    now = 0.0
    while now < 8.0:  # everyone answers at once
        now = made.next_deadline()
        for effect in made.handle(Tick(now)):
            if isinstance(effect, Send):
                header, _ = read(effect.data)
                if header.kind in (MessageKind.PING, MessageKind.JOIN):
                    probed[effect.to] += 1
                    number = int(effect.to.split(":")[0].rsplit(".", 1)[1])
                    ack = write_header(
                        Header(MessageKind.ACK, boot_id(number), boot_id(1), sum(probed.values()), header.probe)
                    )
                    made.handle(Received(now, MAC.append(ack)))
    assert probed.pop(status_of(2, 1).peer_address) in (8, 9)
    assert sum(probed.values()) in (7, 8, 9)
    assert max(probed.values()) == 1


@pytest.mark.parametrize(
    "reason", [LossReason.REFUSED, LossReason.UNREACHABLE, LossReason.RESET, LossReason.SILENCE, LossReason.OTHER]
)
def test_only_a_refused_connection_makes_its_peer_suspect_any_other_failure_has_it_probed(reason: LossReason) -> None:
    made, peer = machine(2, 3), status_of(2, 1)
    effects = made.handle(PeerRequestFailed(0.0, peer.instance_id, reason))
    changes = [(effect.after, str(effect.reason)) for effect in effects if isinstance(effect, MemberChanged)]
    assert changes == ([(Liveness.SUSPECT, "refused")] if reason is LossReason.REFUSED else [])
    assert any(isinstance(effect, Send) and effect.to == peer.peer_address for effect in effects)


def test_a_probe_of_a_suspect_carries_the_accusation() -> None:
    """Lifeguard's buddies: it need not wait for gossip to come by before it can refute."""
    made = machine(2, 3)
    made.handle(PeerRequestFailed(0.0, status_of(2, 1).instance_id, LossReason.REFUSED))
    accusations = []
    for _, effect in until(made, 4.0):  # by then gossip has sent it as often as its limit allows
        if isinstance(effect, Send) and effect.to == status_of(2, 1).peer_address:
            header, updates = read(effect.data)
            if header.kind in (MessageKind.PING, MessageKind.JOIN) and header.receiver == boot_id(2):
                accusations.append([r for r in updates if isinstance(r, Suspect) and r.boot_id == boot_id(2)])
    assert accusations
    assert all(accusations), "a probe of a suspect without the accusation"


def test_verifications_of_strangers_are_bounded() -> None:
    """An attacker can replay a thousand recorded JOINs: at most MAX_VERIFICATIONS run at once."""
    made = machine(2)
    probed: set[str] = set()
    for number in range(100, 100 + 3 * MAX_VERIFICATIONS):
        for send in sends(made.handle(Received(0.0, hello(number)))):
            if read(send.data)[0].kind is MessageKind.JOIN:
                probed.add(send.to)
    assert len(probed) == MAX_VERIFICATIONS
    assert made.stats["probes"] == MAX_VERIFICATIONS
    until(made, 5.0)
    again = sends(made.handle(Received(5.0, hello(500))))
    assert MessageKind.JOIN in {read(send.data)[0].kind for send in again}  # there is room again


def test_an_outdated_introduction_is_answered_with_the_newer_incarnation() -> None:
    """A restarted agent whose clock was set back gets the incarnation that it has to exceed."""
    made = machine(2, 3)
    back = write_intro(boot_id(99), status_of(3, 10))
    (answer,) = [
        send
        for send in sends(made.handle(Received(0.1, gossip(2, 1, back))))
        if send.to == status_of(3, 1).peer_address
    ]
    header, updates = read(answer.data)
    assert (header.kind, header.receiver) == (MessageKind.JOIN, boot_id(99))
    assert Dead(boot_id(99), 1_000, boot_id(1)) in updates


def test_a_newcomer_syncs_tables_with_the_first_peer_that_answers() -> None:
    made = machine()
    peer = status_of(2, 1_000)
    (greeting,) = sends(made.handle(NodesDiscovered(0.0, [TaggedNode(peer.instance_id, peer.peer_address, None)])))
    header, _ = read(greeting.data)
    ack = write_header(Header(MessageKind.ACK, boot_id(2), boot_id(1), 1, header.probe)) + write_intro(boot_id(2), peer)
    effects = made.handle(Received(0.1, MAC.append(ack)))
    assert [effect.instance_id for effect in effects if isinstance(effect, SendSync)] == [peer.instance_id]


@pytest.mark.parametrize("sent_before", [1, 7])
def test_a_message_that_arrives_twice_is_answered_once(sent_before: int) -> None:
    made = machine(2)
    ping = MAC.append(write_header(Header(MessageKind.PING, boot_id(2), boot_id(1), sent_before, 5)))
    assert [read(send.data)[0].kind for send in sends(made.handle(Received(0.1, ping)))] == [MessageKind.ACK]
    assert made.handle(Received(0.2, ping)) == ()
    assert made.rejected["replayed"] == 1


def test_a_node_that_leaves_broadcasts_to_some_at_once() -> None:
    """It may not live until the next round of gossip."""
    made = machine(*range(2, 40))
    broadcast = sends(made.handle(Leaving(0.1)))
    assert len({send.to for send in broadcast}) == made.config.leave_fanout
    assert all(Left(boot_id(1), 1_000) in read(send.data)[1] for send in broadcast)


def test_discovery_without_nodes_changes_nothing() -> None:
    """A wrong filter, or an EC2 that is not itself: the view follows the nodes' own messages."""
    made = machine(2, 3)
    before = made.view
    assert made.handle(NodesDiscovered(0.1, [])) == ()
    assert made.view is before
    assert len(before.serving) == 2
