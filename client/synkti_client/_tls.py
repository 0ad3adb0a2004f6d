"""How nodes with TLS are checked: by which authorities, and under which name."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass


@dataclass(frozen=True)
class Tls:
    """How the certificates of https nodes are checked; plain http is not affected.

    Raises ValueError where the bundle cannot be read, when a transport is made.
    """

    ca_bundle: str | os.PathLike[str] | None = None
    """A PEM file of the authorities to trust, in place of the system's."""

    server_name: str | None = None
    """The name in the nodes' certificates, where they are called by their IP addresses and share a certificate."""

    def context(self) -> ssl.SSLContext:
        """Return the context for connections to nodes."""
        try:
            return ssl.create_default_context(cafile=self.ca_bundle)
        except OSError as error:  # SSLError is one
            reason = error.strerror or "no certificate in PEM"
            raise ValueError(f"the CA bundle {os.fspath(self.ca_bundle or '')} cannot be read: {reason}") from error
