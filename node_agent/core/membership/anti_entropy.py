"""Comparing two nodes' tables: a summary each way, and then only what differs, page by page.

    question: my summary, and (from the second round on) what I know in the buckets that differ
    answer:   your summary, and what you know in the buckets that differ, a page of it

Two tables that agree cost one small message each way, whatever their size; a newcomer gets all in a few pages. The
tables of a living fleet are never equal for long, so a comparison ends after as many rounds as bring it nearer.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

from node_agent.core.membership.member_state import MemberState, accusation_of
from node_agent.core.membership.member_table import BUCKETS, Member, MemberTable, bucket_of, fingerprint
from node_agent.core.membership.outbound import LocalNode
from node_agent.core.membership.wire import (
    Dead,
    Intro,
    Rumour,
    Suspect,
    write_accusation,
    write_intro,
    write_left,
    write_load,
    write_loads,
)
from node_agent.core.node.status import Liveness

PAGE_BYTES = 64 * 1024
MAX_BODY_BYTES = PAGE_BYTES + 2_048
MAX_ROUNDS = 64

_SUMMARY = struct.Struct(f">{BUCKETS}I")
SUMMARY_BYTES = _SUMMARY.size


def summary_of(roster: MemberTable, me: LocalNode) -> list[int]:
    """Of all that are present in this node's eyes, itself included."""
    summary = list(roster.summary)
    if not me.has_left:
        summary[bucket_of(me.life)] ^= fingerprint(me.life, me.status.incarnation)
    return summary


def write_summary(summary: Sequence[int]) -> bytes:
    return _SUMMARY.pack(*summary)


def read_summary(content: bytes, at: int) -> tuple[int, ...]:
    """Raises ValueError."""
    if len(content) < at + SUMMARY_BYTES:
        raise ValueError("a comparison without a summary")
    return _SUMMARY.unpack_from(content, at)


def differing(mine: Sequence[int], theirs: Sequence[int]) -> list[int]:
    """The buckets in which two tables differ."""
    return [bucket for bucket in range(BUCKETS) if mine[bucket] != theirs[bucket]]


def page(roster: MemberTable, me: LocalNode, buckets: Sequence[int], start: int) -> bytes:
    """What this node knows of these buckets, as rumours, in at most PAGE_BYTES.

    start: any number; the page begins at that bucket of the list, so that no bucket is last every time.
    """
    if not buckets:
        return b""
    turned = [*buckets[start % len(buckets) :], *buckets[: start % len(buckets)]]
    place = {bucket: place for place, bucket in enumerate(turned)}
    members = sorted(roster.in_buckets(turned), key=lambda member: place[bucket_of(member.life)])
    parts = [me.intro] if not me.has_left and bucket_of(me.life) in place else []
    room = PAGE_BYTES
    for member in members:
        told = _all_of(member, me.life)
        room -= len(told)
        if room < 0:
            break
        parts.append(told)
    return b"".join(parts)


def _all_of(member: Member, by: bytes) -> bytes:
    """What is held against a member, then its introduction: who never heard of a dead one need not begin to."""
    if member.liveness is Liveness.LEFT:
        return write_left(member.life, member.incarnation)
    told = accusation_of(member, by) + write_intro(member.life, member.status)
    if member.load_version:
        told += write_loads([write_load(member.life, member.load_version, member.load)])
    return told


def merge(rumours: Iterable[Rumour], beliefs: MemberState, roster: MemberTable, *, tell: bool) -> dict[bytes, bytes]:
    """Take a page in. Returns the lives of this node's living members that the other side holds for worse, and how.

    That is not believed: it may be as old as a partition. But who is so accused should hear of it, and refute.
    tell: whether nodes met here are news for others, too; a newcomer's are not.
    """
    doubts: dict[bytes, bytes] = {}
    over: set[bytes] = set()
    for rumour in rumours:
        if isinstance(rumour, Intro):
            if rumour.life not in over or rumour.life in roster.by_life:
                beliefs.take_intro(rumour, "comparison", tell=tell)
        elif isinstance(rumour, Suspect | Dead) and not beliefs.is_of_me(rumour):
            member = roster.by_life.get(rumour.life)
            if member is None:
                over.add(rumour.life)
            elif member.liveness is Liveness.ALIVE and rumour.incarnation >= member.incarnation:
                doubts[rumour.life] = write_accusation(rumour)
        else:
            beliefs.take(rumour)
    return doubts
