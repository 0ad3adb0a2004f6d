"""Anti-entropy between two nodes' tables: a summary each way, then only what differs, page by page.

    request:  my summary, and (from the second round on) my entries of the buckets that differ
    response: your summary, and a page of your entries of the buckets that differ

Two tables that agree cost one small message each way, whatever their size; a newcomer gets all in a few pages. The
tables of a running fleet are never equal for long, so a session ends once a round brings the tables no nearer.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

from node_agent.core.membership.change_reason import Cause
from node_agent.core.membership.member_state import MemberState, pending_accusation
from node_agent.core.membership.member_table import BUCKETS, Member, MemberTable, bucket_of, fingerprint
from node_agent.core.membership.outbound import LocalNode
from node_agent.core.membership.wire.loads import write_load
from node_agent.core.membership.wire.updates import (
    Dead,
    Intro,
    Suspect,
    Update,
    write_accusation,
    write_intro,
    write_left,
    write_loads,
)
from node_agent.core.node.status import Liveness

PAGE_BYTES = 64 * 1024
MAX_BODY_BYTES = PAGE_BYTES + 2_048
MAX_ROUNDS = 64

_SUMMARY = struct.Struct(f">{BUCKETS}I")
SUMMARY_BYTES = _SUMMARY.size


def local_summary(table: MemberTable, local: LocalNode) -> list[int]:
    """Compute the summary of all members that are present in this node's table, itself included."""
    summary = list(table.summary)
    if not local.has_left:
        summary[bucket_of(local.boot_id)] ^= fingerprint(local.boot_id, local.status.incarnation)
    return summary


def write_summary(summary: Sequence[int]) -> bytes:
    """Encode a summary in SUMMARY_BYTES, as `read_summary` decodes it. summary: BUCKETS numbers of 32 bits."""
    return _SUMMARY.pack(*summary)


def read_summary(content: bytes, at: int) -> tuple[int, ...]:
    """Read a summary at byte `at`. Raises ValueError."""
    if len(content) < at + SUMMARY_BYTES:
        raise ValueError("a comparison without a summary")
    return _SUMMARY.unpack_from(content, at)


def differing_buckets(mine: Sequence[int], theirs: Sequence[int]) -> list[int]:
    """Return the buckets in which two tables differ."""
    return [bucket for bucket in range(BUCKETS) if mine[bucket] != theirs[bucket]]


def write_page(table: MemberTable, local: LocalNode, buckets: Sequence[int], start: int) -> bytes:
    """Return the entries of these buckets as updates: this node's own first, then members' in at most PAGE_BYTES.

    start: any number; the page begins at that bucket of the list, so that no bucket is last every time.
    """
    if not buckets:
        return b""
    rotated = [*buckets[start % len(buckets) :], *buckets[: start % len(buckets)]]
    position = {bucket: position for position, bucket in enumerate(rotated)}
    members = sorted(table.in_buckets(rotated), key=lambda member: position[bucket_of(member.boot_id)])
    parts = [local.intro] if not local.has_left and bucket_of(local.boot_id) in position else []
    remaining = PAGE_BYTES
    for member in members:
        written = _write_member(member, local.boot_id)
        remaining -= len(written)
        if remaining < 0:
            break
        parts.append(written)
    return b"".join(parts)


def _write_member(member: Member, by: bytes) -> bytes:
    """Return the accusation against a member, then its introduction, encoded as updates.

    In this order, a reader that does not know a dead member need not add it.
    """
    if member.liveness is Liveness.LEFT:
        return write_left(member.boot_id, member.incarnation)
    written = pending_accusation(member, by) + write_intro(member.boot_id, member.status)
    if member.load_version:
        written += write_loads([write_load(member.boot_id, member.load_version, member.load)])
    return written


def merge(
    updates: Iterable[Update], member_state: MemberState, table: MemberTable, *, broadcast: bool
) -> dict[bytes, bytes]:
    """Apply a page, except its accusations: one may be as old as a partition.

    broadcast: whether members that the page adds are broadcast; those that a newcomer receives are not.

    Returns:
        The accusations of members that are alive here, encoded as updates, by boot id: the accused member has to
        receive its accusation, to refute it.
    """
    accusations: dict[bytes, bytes] = {}
    unknown: set[bytes] = set()
    for update in updates:
        if isinstance(update, Intro):
            if update.boot_id not in unknown or update.boot_id in table.by_boot_id:
                member_state.apply_intro(update, Cause.COMPARISON, broadcast=broadcast)
        elif isinstance(update, Suspect | Dead) and not member_state.is_about_local_node(update):
            member = table.by_boot_id.get(update.boot_id)
            if member is None:
                unknown.add(update.boot_id)
            elif member.liveness is Liveness.ALIVE and update.incarnation >= member.incarnation:
                accusations[update.boot_id] = write_accusation(update)
        else:
            member_state.apply(update)
    return accusations
