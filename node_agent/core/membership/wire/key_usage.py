"""What a node reports of the keys that have limits, packed: at most MAX_KEYS of KEY_BYTES each.

    key = digest 8 | requests 4 | tokens 4 | open streams 2 | requested 2 | requested tokens 4

Counts beyond the format's range become its largest. A key is named by a digest (`core/access/key_usage.digest_of`), so
that a datagram has no key's id.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from node_agent.core.access.key_usage import DIGEST_BYTES
from node_agent.core.access.peer_usage import UsageReport

_KEY = struct.Struct(f">{DIGEST_BYTES}sIIHHI")
KEY_BYTES = _KEY.size
MAX_KEYS = 32
"""In one report: with the header of the message it fits into a datagram."""

_LARGEST = UsageReport(
    requests=0xFFFFFFFF, tokens=0xFFFFFFFF, streams=0xFFFF, demanded=0xFFFF, demanded_tokens=0xFFFFFFFF
)


def write_key_usage(reports: Iterable[tuple[bytes, UsageReport]]) -> bytes:
    """Pack reports, by digests of keys; those beyond MAX_KEYS are left out."""
    packed = [
        _KEY.pack(digest, *(min(max(0, count), most) for count, most in zip(report, _LARGEST, strict=True)))
        for _, (digest, report) in zip(range(MAX_KEYS), reports, strict=False)
    ]
    return b"".join(packed)


def read_key_usage(packed: bytes) -> Iterator[tuple[bytes, UsageReport]]:
    """Unpack reports, at most MAX_KEYS; bytes behind the last whole one are ignored."""
    for at in range(0, min(len(packed) // KEY_BYTES, MAX_KEYS) * KEY_BYTES, KEY_BYTES):
        digest, *counts = _KEY.unpack_from(packed, at)
        yield digest, UsageReport(*counts)
