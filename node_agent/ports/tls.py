"""TLS: the certificate of the client API, which may be replaced while the agent runs, and the keys of peers."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Protocol

from node_agent.contract.errors import TransientError
from node_agent.core.http.certificate_watch import FileVersions


class UnusableCertificateError(TransientError):
    """The certificate and the key cannot be used; the message has the reason and the files, never their contents."""


@dataclass(frozen=True, slots=True)
class LoadedCertificate:
    """A certificate that a server can present. expires_at: in unix seconds."""

    context: ssl.SSLContext
    expires_at: float


class Certificate(Protocol):
    """The certificate of a server and its key, as they are stored now."""

    async def versions(self) -> FileVersions:
        """Return the versions of what is stored; they differ once something was replaced."""
        ...

    async def load(self) -> LoadedCertificate:
        """Load what is stored. Raises UnusableCertificateError."""
        ...


class PeerKeys(Protocol):
    """The public keys on record of the fleet's nodes. No method waits."""

    def public_key(self, node_id: str) -> str | None:
        """Return the public key of a node, as `adapters/node_key` writes it; None where there is none on record."""
        ...

    def node_of(self, public_key: str) -> str | None:
        """Return the node whose key this is; None where it is none on record, or was shut out."""
        ...
