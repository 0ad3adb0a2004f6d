"""Loads, packed: LOAD_BYTES of the boot id, a version and the figures, rounded to what 16 bits hold."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from node_agent.core.node.status import Load

_LOAD = struct.Struct(">6sIHHBHH")
LOAD_BYTES = _LOAD.size
_TENTH_MS = 1e-4
_PREFILL_UNIT = 10.0

PackedLoad = tuple[bytes, int, int, int, int, int, int]
"""Boot id, version, and the figures of which `load_of` makes a Load."""


def write_load(boot_id: bytes, version: int, load: Load) -> bytes:
    """Write one load, for `write_loads`; figures beyond the format's range become its largest."""
    return _LOAD.pack(
        boot_id,
        version & 0xFFFFFFFF,
        _clamped(load.running, 0xFFFF),
        _clamped(load.waiting, 0xFFFF),
        _clamped(load.kv_use * 0xFF, 0xFF),
        _clamped(load.time_per_token_s / _TENTH_MS, 0xFFFF),
        _clamped(load.prefill_tokens_s / _PREFILL_UNIT, 0xFFFF),
    )


def _clamped(figure: float, most: int) -> int:
    """Return the nearest whole number of the format; 0 for a NaN (hence the order of arguments)."""
    return round(min(most, max(0, figure)))


def read_loads(packed: bytes) -> Iterator[PackedLoad]:
    """Unpack the loads of an update, in order; most are not new, so no Load is made of them here."""
    return _LOAD.iter_unpack(packed)


def load_of(read: PackedLoad) -> Load:
    """Return the Load of what `read_loads` unpacked."""
    _, _, running, waiting, kv_use, time_per_token, prefill = read
    return Load(running, waiting, kv_use / 0xFF, time_per_token * _TENTH_MS, prefill * _PREFILL_UNIT)
