"""Members that EC2 does not vouch for: present, probed, and nothing more."""

from __future__ import annotations

import random
from dataclasses import replace

from node_agent.contract.states import NodeState
from node_agent.core.membership import MemberChanged, Membership, NodesDiscovered, Received, Refused, SendSync
from node_agent.core.membership.change_reason import Cause
from node_agent.core.membership.wire.messages import Header, MessageKind, MessageMac, write_header
from node_agent.core.membership.wire.updates import (
    write_alive,
    write_dead,
    write_intro,
    write_refusal,
)
from node_agent.core.node.status import Liveness, NodeStatus, TaggedNode
from node_agent.core.node.vouched_nodes import VouchedNodes
from sim import fleet
from sim.fleet import KEY

MAC = MessageMac(KEY)
NEW = 2_000


def boot_id(number: int) -> bytes:
    return number.to_bytes(6, "big")


def key_of(number: int) -> str:
    return f"{number:044d}"


def status_of(number: int, incarnation: int = 1_000) -> NodeStatus:
    return replace(fleet.status_of(number, incarnation), public_key=key_of(number))


def tag(number: int, key: str | None = None) -> TaggedNode:
    status = status_of(number)
    return TaggedNode(status.instance_id, status.peer_address, NodeState.READY, key or key_of(number))


def machine(*members: int, listed: tuple[int, ...] = ()) -> Membership:
    """Node 1, which has met `members` and has `listed` from EC2."""
    made = Membership(status_of(1), boot_id(1), KEY, 0.0, random.Random(1).random, vouched=VouchedNodes())
    made.handle(NodesDiscovered(0.0, [tag(number) for number in listed]))
    for number in members:
        made.add_member(boot_id(number), status_of(number))
    return made


def gossip(made: Membership, sender: int, updates: bytes, number: int = 1) -> tuple[object, ...]:
    message = MAC.append(write_header(Header(MessageKind.GOSSIP, boot_id(sender), boot_id(1), number, 0)) + updates)
    return made.handle(Received(0.0, message))


def ids(statuses: tuple[NodeStatus, ...]) -> list[int]:
    return sorted(int(status.instance_id.removeprefix("i-"), 16) for status in statuses)


def liveness(made: Membership, number: int) -> Liveness:
    return made.members[status_of(number).instance_id].liveness


def test_only_a_member_that_ec2_vouches_for_is_in_the_view() -> None:
    made = machine(2, 3, listed=(2,))
    assert (ids(made.view.alive), ids(made.view.serving), ids(made.view.known)) == ([2], [2], [2])
    assert ids(made.view.unvouched) == [3]
    assert made.stats["unvouched"] == 1


def test_a_listing_lets_a_member_in_reports_it_and_syncs_with_it() -> None:
    made = machine(2, 3, listed=(2,))
    effects = made.handle(NodesDiscovered(0.0, [tag(2), tag(3)]))
    (change,) = [effect for effect in effects if isinstance(effect, MemberChanged)]
    assert (change.status, change.after, change.reason) == (status_of(3), Liveness.ALIVE, Cause.VOUCHED)
    assert any(isinstance(effect, SendSync) for effect in effects)
    assert ids(made.view.alive) == [2, 3]
    assert made.view.unvouched == ()
    made.handle(NodesDiscovered(0.0, [tag(2), tag(3, key=key_of(9))]))
    assert ids(made.view.alive) == [2], "its tag has another key now"


def test_while_ec2_lists_nothing_the_known_members_stay() -> None:
    made = machine(2, 3, listed=(2, 3))
    assert ids(made.view.alive) == [2, 3]
    made.handle(NodesDiscovered(0.0, []))
    assert ids(made.view.alive) == [2, 3]


def test_a_member_without_a_voucher_reports_only_of_itself() -> None:
    made = machine(2, 3, 4, listed=(2, 4))
    stranger = (
        write_dead(boot_id(2), 1_000, boot_id(3))
        + write_intro(boot_id(7), status_of(7))
        + write_refusal(bytes(16), 60.0)
        + write_alive(boot_id(3), NEW, NodeState.DRAINING)
    )
    effects = gossip(made, 3, stranger)
    assert not any(isinstance(effect, Refused) for effect in effects)
    assert liveness(made, 2) is Liveness.ALIVE
    assert status_of(7).instance_id not in made.members
    assert made.members[status_of(3).instance_id].status.state is NodeState.DRAINING
    gossip(made, 4, write_dead(boot_id(2), 1_000, boot_id(4)))
    assert liveness(made, 2) is Liveness.DEAD, "a vouched member's report counts"


def test_an_accusation_of_this_node_is_refuted_whoever_sends_it() -> None:
    made = machine(2, 3, listed=(2,))
    gossip(made, 3, write_dead(boot_id(1), 1_000, boot_id(3)))
    assert made.status.incarnation == 1_001


def test_nobody_gives_a_member_another_address_or_key() -> None:
    """A compromised node would receive the member's requests at its own address."""
    made = machine(2, 3, listed=(2, 3))
    forged = replace(status_of(2, NEW), peer_address="10.9.9.9:8001", public_key=key_of(3))
    gossip(made, 3, write_intro(boot_id(2), forged))
    own = made.members[status_of(2).instance_id].status
    assert (own.peer_address, own.public_key, own.incarnation) == (status_of(2).peer_address, key_of(2), NEW)


def test_an_introduction_with_another_key_replaces_no_present_member() -> None:
    made = machine(2, 3, listed=(2, 3))
    impostor = replace(status_of(2, NEW), public_key=key_of(3))
    gossip(made, 3, write_intro(boot_id(9), impostor))
    assert made.members[status_of(2).instance_id].boot_id == boot_id(2)
    restarted = status_of(2, NEW)
    gossip(made, 3, write_intro(boot_id(9), restarted), 2)
    assert made.members[status_of(2).instance_id].boot_id == boot_id(9), "the same key: a restarted agent"
    assert ids(made.view.alive) == [2, 3]


def test_a_restart_with_a_new_key_waits_for_ec2() -> None:
    made = machine(2, 3, listed=(2, 3))
    gossip(made, 3, write_dead(boot_id(2), 1_000, boot_id(3)))
    gossip(made, 3, write_intro(boot_id(9), replace(status_of(2, NEW), public_key=key_of(8))), 2)
    assert ids(made.view.alive) == [3]
    made.handle(NodesDiscovered(0.0, [tag(2, key=key_of(8)), tag(3)]))
    assert ids(made.view.alive) == [2, 3]
