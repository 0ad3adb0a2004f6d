"""The certificate and the key of the client API, in two PEM files that may be replaced at any time.

Clients get TLS 1.2 or 1.3 with forward secrecy and authenticated encryption, and HTTP/1.1 only.
"""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

from cryptography import x509

from node_agent.core.http.certificate_watch import FileVersions
from node_agent.ports import LoadedCertificate, UnusableCertificateError

_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2; all of those of TLS 1.3 are good."""

_MAX_BYTES = 1024 * 1024


class CertificateFiles:
    """The Certificate port. certificate: the server's, followed by intermediate ones; key: without a passphrase."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self._certificate = certificate
        self._key = key

    async def versions(self) -> FileVersions:
        """Return the versions of both files, in a thread: the folder may be on a network."""
        return await asyncio.to_thread(lambda: (_version(self._certificate), _version(self._key)))

    async def load(self) -> LoadedCertificate:
        """Load both files into a new context, so that a pair that does not fit leaves the one in use unchanged."""
        return await asyncio.to_thread(self._load)

    def _load(self) -> LoadedCertificate:
        where = f"certificate {self._certificate}, key {self._key}"
        try:
            first = x509.load_pem_x509_certificates(_read(self._certificate))[0]
            context = server_context()
            context.load_cert_chain(self._certificate, self._key, password=_refuse_passphrase)
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                raise UnusableCertificateError(f"{where}: the key is not that of the certificate") from error
            raise UnusableCertificateError(f"{where}: {error.reason or 'not in PEM'}") from error
        except (OSError, ValueError) as error:
            raise UnusableCertificateError(f"{where}: {getattr(error, 'strerror', None) or error}") from error
        return LoadedCertificate(context, first.not_valid_after_utc.timestamp())


def server_context() -> ssl.SSLContext:
    """Return the context of a server for clients, without a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    context.options |= ssl.OP_NO_RENEGOTIATION  # a client could request it again and again, and each costs a signature
    return context


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise ValueError(f"{path} has more than {_MAX_BYTES} bytes")
    return content


def _version(path: Path) -> tuple[int, ...] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size


def _refuse_passphrase() -> str:
    """Refuse a key with a passphrase: by default it would be requested on the terminal."""
    raise ValueError("the key has a passphrase; store it without one, readable by the agent's user only")
