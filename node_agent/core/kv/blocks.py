"""Name KV blocks, and verify that one is whole, undamaged and of this engine's kind.

A block holds the keys and values of all layers for `block_tokens` tokens. Rules kept here:

* a block's key is a chain: the digest of the block before it and of its own token ids. So equal keys mean equal ids
  from the first token on, and nothing else has to be compared;
* the chain begins with a fingerprint of what made the block (weights, layout, dtype, block size, ...) and with the
  request's cache salt, where it has one: blocks of another model, or of a tenant that wants none shared, have other
  keys;
* the chain's root is keyed with a secret of the cluster, where the engine has one (NAMES_KEY): without it nobody can
  find out from names whether a text is stored. The fingerprint has the secret's id, so that engines with different
  secrets, as after a rotation of the cluster's key, do not offer each other blocks;
* every block has a header with its fingerprint, its key, its position and a checksum. The receiver of a block verifies
  all of it first, whatever the source; a block that fails is never used, but computed again.

    header   magic (8) · fingerprint (16) · key (32) · parent (32) · position (4) · shard (2) · shards (2) ·
             payload's length (8) · payload's digest (16)
    payload  layer after layer, as the engine's worker has them; with several workers each keeps its shard

Standard library only: the engine's process imports this, too.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
from array import array
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

MAGIC = b"SYNKTIK1"
FINGERPRINT_BYTES = 16
KEY_BYTES = 32
NAMES_KEY = "SYNKTI_KV_NAMES_KEY"
"""The variable in which an engine gets the secret for names, in hexadecimal digits."""

NAMES_KEY_BYTES = 32
NAME_SUFFIX = ".kv"
MAX_BLOCK_BYTES = 256 * 1024 * 1024
"""The largest shard. 128 tokens of a 70B model are 40 MiB; a larger block is invalid."""

_DIGEST_BYTES = 16
_HEAD = struct.Struct(">8s16s32s32sIHHQ16s")
HEADER_BYTES = _HEAD.size


class BlockHeader(NamedTuple):
    """The header of a block."""

    fingerprint: bytes
    """Of the engine that computed the block."""

    key: bytes
    parent: bytes
    """The key of the block before it; the chain's root for the first."""

    position: int
    """In the chain, from 0."""

    shard: int
    shards: int
    length: int
    digest: bytes

    @property
    def name(self) -> str:
        """The name of the block's file (`block_name`)."""
        return block_name(self.key, self.shard, self.shards)


def engine_fingerprint(identity: Mapping[str, Any]) -> bytes:
    """Hash everything that two engines must have in common to use each other's blocks."""
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(canonical.encode(), digest_size=FINGERPRINT_BYTES, person=b"synkti kv made").digest()


def names_key(cluster_secret: bytes) -> bytes:
    """Return the secret for the names of blocks, which is made from a key of the cluster and reveals nothing of it."""
    return hmac.new(cluster_secret, b"synkti: names of KV blocks, v1", hashlib.sha256).digest()


def names_key_id(secret: bytes) -> str:
    """Return what identifies a secret for names: a hash, empty where there is none."""
    return hashlib.sha256(b"synkti: id of " + secret).hexdigest()[:8] if secret else ""


def read_names_key(environ: Mapping[str, str]) -> bytes:
    """Return the secret for names of an engine's environment; b"" where there is none that can be read."""
    try:
        secret = bytes.fromhex(environ.get(NAMES_KEY, ""))
    except ValueError:
        return b""
    return secret if len(secret) == NAMES_KEY_BYTES else b""


def chain_root(fingerprint: bytes, salt: str = "", secret: bytes = b"") -> bytes:
    """Return the root of a chain. salt: the request's `cache_salt`; secret: as `names_key` returns it."""
    key = fingerprint + secret
    return hashlib.blake2b(salt.encode(), key=key, digest_size=KEY_BYTES, person=b"synkti kv root").digest()


def next_key(parent: bytes, tokens: Sequence[int]) -> bytes:
    """Return the key of the block with these tokens after `parent`. Raises OverflowError, TypeError for invalid ids."""
    return hashlib.blake2b(array("Q", tokens).tobytes(), key=parent, digest_size=KEY_BYTES).digest()


def chain(first: bytes, tokens: Sequence[int], block_tokens: int) -> list[bytes]:
    """Return the keys of all full blocks of `tokens`. first: the root."""
    keys, parent = [], first
    for at in range(0, len(tokens) - block_tokens + 1, block_tokens):
        parent = next_key(parent, tokens[at : at + block_tokens])
        keys.append(parent)
    return keys


def block_name(key: bytes, shard: int = 0, shards: int = 1) -> str:
    """Return the name of the block's file, which is also its name in requests to peers."""
    part = f".{shard}of{shards}" if shards > 1 else ""
    return f"{key.hex()}{part}{NAME_SUFFIX}"


def block_names(key: bytes, shards: int) -> list[str]:
    """Return the names of all shards of a block, which is complete when all of them are there."""
    return [block_name(key, shard, shards) for shard in range(shards)]


def pack_header(
    fingerprint: bytes, key: bytes, parent: bytes, position: int, payload: bytes | bytearray | memoryview,
    shard: int = 0, shards: int = 1,
) -> bytes:  # fmt: skip
    """Encode the header that goes before `payload`."""
    return _HEAD.pack(MAGIC, fingerprint, key, parent, position, shard, shards, len(payload), _digest(payload))


def _digest(payload: bytes | bytearray | memoryview) -> bytes:
    return hashlib.blake2b(payload, digest_size=_DIGEST_BYTES).digest()


def read_header(data: bytes | bytearray | memoryview) -> BlockHeader:
    """Decode the header of a block. Raises ValueError where it is none."""
    if len(data) < HEADER_BYTES:
        raise ValueError("a truncated header")
    magic, *fields = _HEAD.unpack_from(data)
    header = BlockHeader(*fields)
    if magic != MAGIC:
        raise ValueError("not a block")
    if header.length > MAX_BLOCK_BYTES or header.shard >= header.shards:
        raise ValueError("an invalid header")
    return header


def block_defect(data: bytes | bytearray | memoryview, fingerprint: bytes, name: str) -> str | None:
    """Return the defect of a block received as `name`; None where it is whole, and of this engine's kind."""
    try:
        header = read_header(data)
    except ValueError as error:
        return str(error)
    payload = memoryview(data)[HEADER_BYTES:]
    if header.fingerprint != fingerprint:
        return "made by another model, layout or version"
    if header.name != name:
        return "another block"
    if len(payload) != header.length:
        return f"{len(payload)} bytes of {header.length}"
    if _digest(payload) != header.digest:
        return "damaged"
    return None
