"""The cluster's keys: the one that a fleet signs with, and during a rotation one or two more that it accepts.

The secret in Secrets Manager is one key, as CloudFormation generates it, or a JSON object with up to three:

    {"current": "...", "next": "...", "previous": "..."}

A rotation moves in steps, each of which every node has read before the next one (`synkti cluster-key rotate`):

    current                   the fleet signs with it
    current, next             all accept the next one, too
    current, previous         the next one is current: all sign with it, and still accept the previous one
    current                   the previous one is worth nothing any more

A key has an id, a hash of it: messages name the key that they were signed with, and logs, tags and the command line
name keys without revealing them.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

_ID_BYTES = 4
MAX_DOCUMENT_BYTES = 4_096


class ClusterKey(NamedTuple):
    """One key. key_id: 8 hexadecimal digits, which reveal nothing about the secret."""

    key_id: str
    secret: bytes


def cluster_key(secret: bytes) -> ClusterKey:
    """Return the key with this secret."""
    digest = hmac.new(secret, b"synkti: id of a cluster key", hashlib.sha256).digest()
    return ClusterKey(digest[:_ID_BYTES].hex(), secret)


@dataclass(frozen=True)
class ClusterKeySet:
    """The keys of one document."""

    current: ClusterKey
    next: ClusterKey | None = None
    previous: ClusterKey | None = None

    @property
    def accepted(self) -> tuple[ClusterKey, ...]:
        """All keys, the current one first."""
        return tuple(key for key in (self.current, self.next, self.previous) if key is not None)

    @property
    def key_ids(self) -> tuple[str, ...]:
        """The ids of all keys, the current one's first."""
        return tuple(key.key_id for key in self.accepted)

    def begin(self, secret: bytes) -> ClusterKeySet:
        """Return the set with a next key; with the one that it has where a rotation has begun."""
        return self if self.next is not None else ClusterKeySet(self.current, cluster_key(secret), self.previous)

    def promote(self) -> ClusterKeySet:
        """Return the set in which the next key is the current one, and that the previous one."""
        return self if self.next is None else ClusterKeySet(self.next, previous=self.current)

    def finish(self) -> ClusterKeySet:
        """Return the set of the current key alone."""
        return ClusterKeySet(self.current)

    def to_document(self) -> str:
        """Return the secret's text."""
        keys = {"current": self.current, "next": self.next, "previous": self.previous}
        return json.dumps({name: key.secret.decode() for name, key in keys.items() if key is not None})


def parse_cluster_keys(document: bytes) -> ClusterKeySet:
    """Parse the secret.

    Returns:
        Its keys.

    Raises:
        ValueError: It has another form. The message quotes nothing of it.
    """
    if len(document) > MAX_DOCUMENT_BYTES:
        raise ValueError("the cluster's key is larger than a few keys can be")
    if not document.lstrip().startswith(b"{"):
        return ClusterKeySet(_usable(document))
    try:
        fields = json.loads(document)
    except (ValueError, RecursionError):
        raise ValueError("the cluster's key begins like a JSON object and is none") from None
    if not isinstance(fields, dict) or not fields.keys() <= {"current", "next", "previous"}:
        raise ValueError("the cluster's key has other fields than current, next and previous")
    if not all(isinstance(secret, str) and secret.isascii() for secret in fields.values()) or "current" not in fields:
        raise ValueError("the cluster's key has no current key, or one that is no ASCII text")
    found = {name: _usable(secret.encode()) for name, secret in fields.items()}
    if len({key.secret for key in found.values()}) < len(found):
        raise ValueError("the cluster's key has the same key twice")
    return ClusterKeySet(found["current"], found.get("next"), found.get("previous"))


def _usable(secret: bytes) -> ClusterKey:
    if not secret.strip():
        raise ValueError("the cluster's key is empty")
    return cluster_key(secret)


class ClusterKeys:
    """The keys that a node has now; shared by all that sign and verify, and replaced during a rotation.

    on_change: called after each replacement.
    """

    def __init__(self, keys: ClusterKeySet | bytes) -> None:
        self.keys = keys if isinstance(keys, ClusterKeySet) else ClusterKeySet(cluster_key(keys))
        self.on_change: Callable[[], None] = lambda: None

    @property
    def current(self) -> ClusterKey:
        """The key to sign with."""
        return self.keys.current

    @property
    def accepted(self) -> tuple[ClusterKey, ...]:
        """The keys that messages may be signed with, the current one first."""
        return self.keys.accepted

    def by_id(self, key_id: str) -> ClusterKey | None:
        """Return the accepted key with this id."""
        return next((key for key in self.accepted if key.key_id == key_id), None)

    def for_receiver(self, accepted: tuple[str, ...]) -> ClusterKey:
        """Return the key to sign with for a node that accepts keys with these ids, () where that is not known.

        The current one, unless the node has not read it yet: then another that both have.
        """
        return next((key for key in self.accepted if key.key_id in accepted), self.current)

    def replace(self, keys: ClusterKeySet) -> bool:
        """Use other keys from now on; return whether they differ."""
        if keys == self.keys:
            return False
        self.keys = keys
        self.on_change()
        return True
