"""Keys, secrets and the audit log in memory, in place of AWS's and of files."""

from __future__ import annotations

from node_agent.contract.errors import StoreUnavailable


class MemoryPeerKeys:
    """The public keys of a fleet's nodes, by their ids; a test adds them, and shuts nodes out by removing them."""

    def __init__(self, keys: dict[str, str] | None = None) -> None:
        self.keys = {} if keys is None else keys

    def public_key(self, node_id: str) -> str | None:
        """Return the node's key; None where there is none."""
        return self.keys.get(node_id)

    def node_of(self, public_key: str) -> str | None:
        """Return the node with this key; None where there is none."""
        return next((node for node, key in self.keys.items() if key == public_key), None)

    def shut_out(self, node_id: str) -> None:
        """Remove a node's key."""
        del self.keys[node_id]


class MemorySecrets:
    """Secrets Manager with the values that the constructor is given, by name."""

    def __init__(self, values: dict[str, bytes]) -> None:
        self._values = values

    async def read(self, name: str) -> bytes:
        """Return the value of a secret. Raises StoreUnavailable for an unknown name."""
        if name not in self._values:
            raise StoreUnavailable(f"no such secret: {name}")
        return self._values[name]


class MemoryKeyStore:
    """A key document that a test changes. kept: what was kept for the next agent; is_away: whether reads fail."""

    interval_s = 15.0

    def __init__(self, document: bytes, kept: bytes | None = None) -> None:
        self.document = document
        self.kept = kept
        self.is_away = False

    async def read(self) -> bytes:
        """Return `document`. Raises StoreUnavailable while `is_away`."""
        if self.is_away:
            raise StoreUnavailable("the secret cannot be read")
        return self.document

    def remembered(self) -> bytes | None:
        """Return `kept`."""
        return self.kept

    def keep(self, document: bytes) -> None:
        """Set `kept`."""
        self.kept = document


class MemoryAuditLog:
    """An audit log in `lines`."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []

    async def write(self, lines: bytes) -> None:
        """Append the lines to `lines`."""
        self.lines += lines.splitlines()
