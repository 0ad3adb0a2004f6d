"""Parse the header of a safetensors file: its tensors, and the file's size.

    8 bytes     the header's length, little endian
    header      JSON: {"<tensor>": {"dtype", "shape", "data_offsets": [begin, end]}, ..., "__metadata__": {...}}
    data        to the end of the file; the offsets are from here, and leave no byte out

Source: the format's description in github.com/huggingface/safetensors, whose reader refuses what is refused here.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 100_000_000
_METADATA = "__metadata__"
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64,
    "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


class Unreadable(ValueError):
    """A file is damaged. The message completes a sentence that begins with the file's name."""


@dataclass(frozen=True)
class Header:
    """A parsed header. size: of the whole file in bytes."""

    tensors: frozenset[str]
    size: int


def header_bytes(first: bytes, size: int) -> int:
    """Return the header's length. first: the file's first 8 bytes; size: the file's. Raises Unreadable."""
    if len(first) < LENGTH_BYTES:
        raise Unreadable(f"is no safetensors file: it has {size} bytes")
    length = int.from_bytes(first, "little")
    if length > MAX_HEADER_BYTES:
        raise Unreadable("is no safetensors file: it does not begin with the length of a header")
    if LENGTH_BYTES + length > size:
        raise Unreadable(f"is cut off in its header: it has {size} bytes")
    return length


def parse_header(raw: bytes) -> Header:
    """Parse a header. raw: the header without its length. Raises Unreadable."""
    try:
        entries = json.loads(raw.decode())
        tensors = {name: _extent(entry) for name, entry in entries.items() if name != _METADATA}
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        raise Unreadable("is no safetensors file, or a damaged one: its header cannot be read") from error
    end = 0
    for begin, until in sorted(tensors.values()):
        if begin != end:
            raise Unreadable("is damaged: its tensors overlap, or leave bytes out")
        end = until
    return Header(frozenset(tensors), LENGTH_BYTES + len(raw) + end)


def _extent(entry: Any) -> tuple[int, int]:
    """Return a tensor's offsets. Raises ValueError, AttributeError, KeyError or TypeError for an invalid entry."""
    begin, end = entry["data_offsets"]
    shape, bits = entry["shape"], _BITS.get(entry["dtype"])
    if not (isinstance(begin, int) and isinstance(end, int) and 0 <= begin <= end):
        raise ValueError("offsets")
    if bits is not None and math.prod(shape) * bits != (end - begin) * 8:
        raise ValueError("shape")
    return begin, end
