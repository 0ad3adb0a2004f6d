"""Parse the header of a GGUF file to compute the file's minimum size.

    "GGUF", version (u32), number of tensors (u64), number of keys (u64)
    each key:     name, type (u32), value
    each tensor:  name, dimensions (u32), each of them (u64), type (u32), offset in the data (u64)
    data          from the next multiple of the alignment on (the key general.alignment, else 32)

Numbers are little endian; a text is its length (u64) and its bytes. Source: docs/gguf.md and ggml.h in
github.com/ggml-org/ggml.
"""

from __future__ import annotations

import math
import struct
from typing import Any

from cli.core.safetensors import Unreadable

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_TEXT, _LIST = 8, 9
_ALIGNMENT = b"general.alignment"
_MAX_COUNT = 1_000_000
_BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 40),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292),
    20: (32, 18), 23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 30: (1, 2),
}  # fmt: skip
"""Weights in a block and bytes of a block by type. Unknown types count as one byte at least."""


class _Cursor:
    def __init__(self, data: Any) -> None:
        self._data = data
        self.offset = 0

    def read(self, size: int) -> bytes:
        if self.offset + size > len(self._data):
            raise Unreadable(f"is cut off in its head: it has {len(self._data)} bytes")
        taken = bytes(self._data[self.offset : self.offset + size])
        self.offset += size
        return taken

    def skip(self, size: int) -> None:
        if self.offset + size > len(self._data):
            raise Unreadable(f"is cut off in its head: it has {len(self._data)} bytes")
        self.offset += size

    def u32(self) -> int:
        return int(struct.unpack("<I", self.read(4))[0])

    def u64(self) -> int:
        return int(struct.unpack("<Q", self.read(8))[0])

    def count(self) -> int:
        count = self.u64()
        if count > _MAX_COUNT:
            raise Unreadable("is damaged: its head cannot be read")
        return count


def min_size(data: Any) -> int:
    """Return the complete file's minimum size in bytes. data: the file, as bytes or mapped. Raises Unreadable."""
    cursor = _Cursor(data)
    if bytes(data[:4]) != MAGIC:
        raise Unreadable("is no GGUF file: it does not begin with 'GGUF'")
    cursor.skip(4)
    if cursor.u32() not in _VERSIONS:
        raise Unreadable("is a GGUF file of a version that is not known here, or a damaged one")
    tensors, keys = cursor.count(), cursor.count()
    alignment = 32
    for _ in range(keys):
        name, value = cursor.read(cursor.count()), _value(cursor, cursor.u32())
        if name == _ALIGNMENT and value:
            alignment = value
    ends = [_tensor(cursor) for _ in range(tensors)]
    return -(-cursor.offset // alignment) * alignment + max(ends, default=0)


def _value(cursor: _Cursor, kind: int) -> int:
    """The value where it is a u32, the only one that is needed; 0 for all others."""
    if kind == 4:
        return cursor.u32()
    if kind == _TEXT:
        cursor.skip(cursor.u64())
    elif kind == _LIST:
        _skip_list(cursor)
    elif kind in _SIZES:
        cursor.skip(_SIZES[kind])
    else:
        raise Unreadable("is damaged: its head cannot be read")
    return 0


def _skip_list(cursor: _Cursor) -> None:
    kind, count = cursor.u32(), cursor.u64()
    if kind in _SIZES:
        cursor.skip(_SIZES[kind] * count)
        return
    if kind != _TEXT or count > 10 * _MAX_COUNT:  # lists of lists are allowed, but not in use
        raise Unreadable("is damaged: its head cannot be read")
    for _ in range(count):
        cursor.skip(cursor.u64())


def _tensor(cursor: _Cursor) -> int:
    """Where its data ends, from the beginning of all data."""
    cursor.skip(cursor.count())
    dimensions = cursor.u32()
    if dimensions > 8:
        raise Unreadable("is damaged: its head cannot be read")
    elements = math.prod(cursor.u64() for _ in range(dimensions))
    weights, size = _BLOCKS.get(cursor.u32(), (elements or 1, 1))
    return cursor.u64() + elements // weights * size
