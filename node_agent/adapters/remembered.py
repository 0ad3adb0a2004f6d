"""Store what the next agent of the same machine needs: its identity, the cluster's key, its own key, clients' keys.

IMDS and Secrets Manager may be unavailable when an agent restarts; the last answers suffice, and clients' keys are read
again as soon as that is possible. With the same key of its own the next agent is at once what EC2 vouches for: its
peers need not read its tags again. The files lie in a folder in memory that systemd makes for the agent's user alone
and removes with the unit ($RUNTIME_DIRECTORY); nothing reaches a disk, an image or a log.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import asdict, fields
from pathlib import Path

from node_agent.adapters.node_key import NodeKey
from node_agent.ports import Identity

_KEY, _IDENTITY = "cluster.key", "identity.json"
_NODE_KEY, _CLIENT_KEYS = "node.key", "client-keys.json"
_MAX_BYTES = 64 * 1024
_log = logging.getLogger(__name__)


class Remembered:
    """The stored answers. folder: None where nothing is stored. An unreadable or unwritable file counts as absent."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def key(self) -> bytes | None:
        """Return the cluster's key, None where it is not stored."""
        return self._read(_KEY) or None

    def keep_key(self, key: bytes) -> None:
        """Store the cluster's key; a failure is only logged."""
        self._write(_KEY, key)

    def node_key(self) -> NodeKey | None:
        """Return the key of this node's last agent, None where it is not stored."""
        return NodeKey.from_pem(self._read(_NODE_KEY) or b"")

    def keep_node_key(self, key: NodeKey) -> None:
        """Store this node's own key; a failure is only logged."""
        self._write(_NODE_KEY, key.to_pem())

    def client_keys(self) -> bytes | None:
        """Return the document of clients' keys, None where it is not stored."""
        return self._read(_CLIENT_KEYS) or None

    def keep_client_keys(self, document: bytes) -> None:
        """Store the document of clients' keys; a failure is only logged."""
        self._write(_CLIENT_KEYS, document)

    def identity(self) -> Identity | None:
        """Return this instance's identity, None where it is not stored, or by an agent with other fields."""
        try:
            values = json.loads(self._read(_IDENTITY) or b"null")
        except ValueError:
            return None
        names = {field.name for field in fields(Identity)}
        if (
            not isinstance(values, dict)
            or values.keys() != names
            or not all(isinstance(v, str) for v in values.values())
        ):
            return None
        return Identity(**values)

    def keep_identity(self, identity: Identity) -> None:
        """Store this instance's identity; a failure is only logged."""
        self._write(_IDENTITY, json.dumps(asdict(identity)).encode())

    def _read(self, name: str) -> bytes | None:
        if self._folder is None:
            return None
        try:
            with (self._folder / name).open("rb") as file:
                return file.read(_MAX_BYTES)
        except OSError:
            return None

    def _write(self, name: str, content: bytes) -> None:
        """Write a file atomically, readable by this user only."""
        if self._folder is None:
            return
        new = self._folder / f"{name}.new"
        try:
            new.unlink(missing_ok=True)
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            new.replace(self._folder / name)
        except OSError as error:
            _log.warning("%s cannot be stored for the next start: %s", name, error)
