"""Where clients' keys are read from, and where it is written who did what."""

from __future__ import annotations

from typing import Protocol


class KeyStore(Protocol):
    """The key document of this cluster (`core/access/key_document`): a secret, or a file."""

    @property
    def interval_s(self) -> float:
        """How often to read it, in seconds."""
        ...

    async def read(self) -> bytes:
        """Return the current document, not parsed. Raises StoreUnavailable, whose message has no part of it."""
        ...

    def remembered(self) -> bytes | None:
        """Return the last usable document that an agent of this machine kept; None where there is none."""
        ...

    def keep(self, document: bytes) -> None:
        """Keep a usable document for the next agent of this machine, in memory; a failure is only logged."""
        ...


class AuditLog(Protocol):
    """The log of who did what, of bounded size."""

    async def write(self, lines: bytes) -> None:
        """Append whole lines. Raises StoreUnavailable."""
        ...
