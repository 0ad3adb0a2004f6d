"""Read the key document from Secrets Manager or from a file."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path

from node_agent.adapters.remembered import Remembered
from node_agent.contract.errors import StoreUnavailable
from node_agent.core.access.key_document import MAX_DOCUMENT_BYTES
from node_agent.ports import Secrets

SECRET_INTERVAL_S = 15.0
"""With a fifth of it as jitter, and the request, a revocation holds on every node within 30 s."""

FILE_INTERVAL_S = 1.0
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class SecretKeyStore:
    """The KeyStore port, over a secret. name: of the secret, or its ARN."""

    interval_s = SECRET_INTERVAL_S

    def __init__(self, secrets: Secrets, name: str, memory: Remembered) -> None:
        self._secrets = secrets
        self._name = name
        self._memory = memory

    async def read(self) -> bytes:
        """Return the secret's current version. Raises StoreUnavailable."""
        return await self._secrets.read(self._name)

    def remembered(self) -> bytes | None:
        """Return the document that the last agent of this machine kept, None where there is none."""
        return self._memory.client_keys()

    def keep(self, document: bytes) -> None:
        """Keep a document for the next agent of this machine."""
        self._memory.keep_client_keys(document)


class FileKeyStore:
    """The KeyStore port, over a file that only its owner may read. It is read again where it has changed."""

    interval_s = FILE_INTERVAL_S

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, ...] = ()
        self._document = b""

    async def read(self) -> bytes:
        """Return the file's content. Raises StoreUnavailable where it is missing, too large, or others may read it."""
        return await asyncio.to_thread(self.read_now)

    def read_now(self) -> bytes:
        """Return what `read` returns, and block for it."""
        try:
            with self._path.open("rb") as file:
                status = os.fstat(file.fileno())
                if status.st_mode & _OTHERS:
                    mode = stat.S_IMODE(status.st_mode)
                    raise StoreUnavailable(
                        f"{self._path} has mode {mode:04o}, so others may read or change it: chmod 600 {self._path}"
                    )
                seen = (status.st_mtime_ns, status.st_size, status.st_ino)
                if seen != self._seen:
                    self._document = file.read(MAX_DOCUMENT_BYTES + 1)
                    self._seen = seen
                return self._document
        except OSError as error:
            raise StoreUnavailable(f"{self._path} cannot be read: {error.strerror}") from error

    def remembered(self) -> bytes | None:
        """Return None: the file is on this machine."""
        return None

    def keep(self, document: bytes) -> None:
        """Do nothing: the file is on this machine."""
