"""Index the blocks of a stream's context, in order, and plan how they are fetched.

Blocks are sent one after another, each with its header (`core/kv/blocks`), so that the receiver can separate and verify
them. A draining node writes all of a stream's blocks to one object of the checkpoints bucket, because S3 takes seconds
for hundreds of small ones; the index is an object beside it, written last.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from node_agent.contract.names import KV_BLOCKS_PREFIX
from node_agent.core.kv.blocks import HEADER_BYTES, KEY_BYTES, MAX_BLOCK_BYTES, BlockHeader, block_names, read_header

MAX_BLOCKS = 65_536
"""Blocks of one stream: a million tokens in blocks of 16."""

BATCH_BYTES = 8 * 1024 * 1024
"""Bytes of one request: what S3 recommends for a range, and small enough to hold a few in memory."""

_NAME = re.compile(r"[0-9a-f]{%d}(\.\d{1,4}of\d{1,4})?\.kv" % (2 * KEY_BYTES))  # noqa: UP031 # braces of both kinds
_STREAM = re.compile(r"[0-9a-f]{8,64}")


@dataclass(frozen=True)
class Index:
    """The blocks of a context that one source has, from the first on."""

    fingerprint: bytes
    names: tuple[str, ...]
    """The names of the blocks' files."""

    sizes: tuple[int, ...]
    """Their sizes in bytes."""

    object_key: str = ""
    """The object in S3 that has the blocks; "" at a peer."""

    @property
    def size(self) -> int:
        """The bytes of all blocks together, with their headers."""
        return sum(self.sizes)

    def to_bytes(self) -> bytes:
        """Encode it in JSON, as `parse_index` decodes it."""
        fields = {"fingerprint": self.fingerprint.hex(), "names": self.names, "sizes": self.sizes}
        return orjson.dumps({**fields, "object": self.object_key})


def parse_index(data: bytes) -> Index:
    """Decode an index. Raises ValueError where it is none."""
    try:
        fields = orjson.loads(data)
        index = Index(
            bytes.fromhex(fields["fingerprint"]),
            tuple(map(str, fields["names"])),
            tuple(map(int, fields["sizes"])),
            str(fields["object"]),
        )
    except (KeyError, TypeError, OverflowError) as error:
        raise ValueError(f"not an index of blocks: {error!r}") from error
    if len(index.names) != len(index.sizes) or len(index.names) > MAX_BLOCKS:
        raise ValueError("an index with unequal numbers of names and sizes, or too many")
    if not all(map(is_block_name, index.names)):
        raise ValueError("an index with a name that is no block's")
    if not all(HEADER_BYTES <= size <= HEADER_BYTES + MAX_BLOCK_BYTES for size in index.sizes):
        raise ValueError("an index with a size that is no block's")
    return index


def is_block_name(name: str) -> bool:
    """Return whether this is a name of a block's file; no other file may be requested."""
    return _NAME.fullmatch(name) is not None


def is_stream_id(text: str) -> bool:
    """Return whether it has the form of a stream's id, 8-64 lower-case hexadecimal digits: S3's keys contain it."""
    return _STREAM.fullmatch(text) is not None


def index_key(fingerprint: bytes, stream: str) -> str:
    """Return the S3 key of a stream's index. fingerprint: of the engine that computed the blocks."""
    return f"{KV_BLOCKS_PREFIX}{fingerprint.hex()}/{stream}.json"


def blocks_key(fingerprint: bytes, stream: str) -> str:
    """Return the S3 key of a stream's blocks. fingerprint: of the engine that computed them."""
    return f"{KV_BLOCKS_PREFIX}{fingerprint.hex()}/{stream}.blocks"


def last_blocks_of(stream: str, heads: Mapping[str, bytes]) -> list[bytes]:
    """Return the last blocks of a stream's requests. heads: by the engine's request id, which contains the stream's."""
    found = [key for request, key in heads.items() if stream in request]
    return list(dict.fromkeys(reversed(found)))


def chain_of(head: bytes, shards: int, header: Callable[[str], BlockHeader | None]) -> list[str]:
    """Return the names of all blocks from the first to `head`, all shards of each; [] where the chain has a gap.

    header: reads the header of a block's file, None where there is none.
    """
    back: list[list[str]] = []
    key = head
    while len(back) < MAX_BLOCKS:
        names = block_names(key, shards)
        found = header(names[0])
        if found is None or found.key != key:
            return []
        back.append(names)
        if found.position == 0:
            return [name for names in reversed(back) for name in names]
        key = found.parent
    return []


@dataclass(frozen=True)
class Batch:
    """Blocks that are requested together: names, and their byte range in the object."""

    names: tuple[str, ...]
    start: int
    end: int


def plan_batches(index: Index, wanted: Callable[[str], bool], most: int = BATCH_BYTES) -> Iterator[Batch]:
    """Split the wanted blocks of an index into requests of neighbours, none but a single block above `most` bytes."""
    names: list[str] = []
    at = start = 0
    for name, size in zip(index.names, index.sizes, strict=True):
        if names and (not wanted(name) or at + size - start > most):
            yield Batch(tuple(names), start, at)
            names = []
        if wanted(name):
            if not names:
                start = at
            names.append(name)
        at += size
    if names:
        yield Batch(tuple(names), start, at)


def split_blocks(data: bytes, names: Sequence[str]) -> list[tuple[str, memoryview]]:
    """Split the answer to a request for these names into blocks: as many as are whole, in their order."""
    view, at, found = memoryview(data), 0, []
    for name in names:
        try:
            end = at + HEADER_BYTES + read_header(view[at:]).length
        except ValueError:
            break
        if end > len(view):
            break
        found.append((name, view[at:end]))
        at = end
    return found


def parse_names(data: bytes) -> tuple[str, ...]:
    """Decode a peer's request for blocks. Raises ValueError."""
    fields: Any = orjson.loads(data)
    if not isinstance(fields, list) or not 0 < len(fields) <= MAX_BLOCKS:
        raise ValueError("a list of blocks' names")
    if not all(isinstance(name, str) and is_block_name(name) for name in fields):
        raise ValueError("a name that is no block's")
    return tuple(fields)
