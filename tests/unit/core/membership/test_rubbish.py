"""Peers with the key that are buggy, or of another version: the machine accepts their messages and continues."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from node_agent.contract.addresses import node_address
from node_agent.contract.states import NodeState
from node_agent.core.membership import LocalLoadSet, LocalStateSet, Membership, Received, Send, SendSync, Tick
from node_agent.core.membership.wire.loads import write_load
from node_agent.core.membership.wire.messages import Header, MessageKind, MessageMac, write_header
from node_agent.core.membership.wire.statuses import MAX_INCARNATION
from node_agent.core.membership.wire.updates import (
    write_alive,
    write_dead,
    write_intro,
    write_left,
    write_loads,
    write_suspect,
)
from node_agent.core.node.status import Load, NodeStatus, Pool

KEY, ME, PEER, OTHER = b"key", b"mylife", b"peersl", b"others"
INCARNATIONS = st.sampled_from([0, 1, 2, 2**53 - 2, 2**53 - 1, 2**53, 2**63, 2**64 - 1]) | st.integers(0, 2**64 - 1)
LIVES = st.sampled_from([ME, PEER, OTHER, bytes(6)]) | st.binary(min_size=6, max_size=6)
STATES = st.sampled_from(NodeState)
WORDS = st.text(max_size=30)
ADDRESSES = (
    st.sampled_from(["10.0.0.2:1", "10.71.3.7", "[::1]:8001", "name:1", "10.0.0.2:99999", "0.0.0.0:1", ""]) | WORDS
)


def status_of(number: int) -> NodeStatus:
    peer = f"10.0.0.{number}:8001"
    return NodeStatus(f"i-{number}", peer, peer, NodeState.READY, Pool("z", "t"), "m", 1)


def intros() -> st.SearchStrategy[bytes]:
    statuses = st.builds(
        NodeStatus, st.sampled_from(["i-0", "i-1", "i-2", ""]) | WORDS, ADDRESSES, ADDRESSES, STATES,
        st.builds(Pool, WORDS, WORDS), WORDS, INCARNATIONS, WORDS,
    )  # fmt: skip
    return st.builds(write_intro, LIVES, statuses)


FIGURES = st.builds(Load, st.integers(), st.integers(), st.floats(), st.floats(), st.floats())
RUMOURS = st.one_of(
    intros(),
    st.builds(write_alive, LIVES, INCARNATIONS, STATES),
    st.builds(write_suspect, LIVES, INCARNATIONS, STATES, st.frozensets(LIVES, min_size=1, max_size=3)),
    st.builds(write_dead, LIVES, INCARNATIONS, LIVES),
    st.builds(write_left, LIVES, INCARNATIONS),
    st.builds(lambda *load: write_loads([write_load(*load)]), LIVES, st.integers(0, 2**32 - 1), FIGURES),
    st.binary(max_size=40),
)
MESSAGES = st.builds(
    lambda kind, sender, receiver, number, probe, updates: MessageMac(KEY).append(
        write_header(Header(kind, sender, receiver, number, probe)) + b"".join(updates)
    ),
    st.sampled_from(MessageKind),
    LIVES,
    st.sampled_from([ME, bytes(6)]),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
    st.lists(RUMOURS, max_size=4),
)


@given(st.lists(MESSAGES, max_size=12))
def test_any_message_is_accepted_and_answers_go_only_to_addresses(messages: list[bytes]) -> None:
    machine = Membership(status_of(0), ME, KEY, 0.0, lambda: 0.5)
    machine.add_member(PEER, status_of(1))
    now = 0.0
    for message in messages:
        for event in (Received(now, message), Tick(now + 0.5), LocalLoadSet(now + 0.5, Load(1, 2, 0.5, 0.1, 1.0))):
            for effect in machine.handle(event):
                if isinstance(effect, Send | SendSync):
                    assert node_address(effect.to) is not None
        now += 0.5
    for _ in range(30):
        now += 1.0
        machine.handle(Tick(now))
    machine.handle(LocalStateSet(now, NodeState.AT_RISK, ()))
    assert machine.status.state is NodeState.AT_RISK
    assert machine.status.incarnation <= MAX_INCARNATION


def test_an_incarnation_beyond_every_clock_is_dropped_and_not_refuted() -> None:
    machine = Membership(status_of(0), ME, KEY, 0.0, lambda: 0.5)
    machine.add_member(PEER, status_of(1))
    for number, incarnation in enumerate((2**63, 2**64 - 1), start=1):
        for update in (
            write_alive(ME, incarnation, NodeState.GONE),
            write_suspect(ME, incarnation, NodeState.READY, frozenset((PEER,))),
            write_dead(ME, incarnation, PEER),
            write_intro(OTHER, replace(status_of(0), incarnation=incarnation)),
            write_left(PEER, incarnation),
        ):
            message = write_header(Header(MessageKind.GOSSIP, PEER, ME, number, 0)) + update
            machine.handle(Received(1.0, MessageMac(KEY).append(message)))
    assert machine.status.incarnation == 1
    assert len(machine.view.alive) == 1
