"""Ends TLS in front of the embedded AWS, so that containers call AWS's services by their own names.

A container's machine image knows the names of the services that nodes call (`service_hosts`) and this run's
certificate authority. Any other name does not resolve: a call that no VPC endpoint would serve fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from local.boot.commands import call

PORT = 443
_CHUNK = 64 * 1024
_DAYS = "2"


def service_hosts(region: str, services: Sequence[str], buckets: Sequence[str]) -> list[str]:
    """Return the names of these services' endpoints, and of the buckets'. Pure."""
    # boto3 calls buckets of us-east-1 by the older names without a region.
    of_s3 = [f"s3.{region}", *(["s3"] if region == "us-east-1" else [])]
    hosts = [f"{service}.{region}.amazonaws.com" for service in sorted(services)]
    return hosts + [f"{bucket}.{s3}.amazonaws.com" for bucket in sorted(buckets) for s3 in of_s3]


class Certificates:
    """A certificate authority of this run, and a certificate for these hosts. folder: where the files are."""

    def __init__(self, folder: Path, hosts: Sequence[str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.authority = folder / "authority.pem"
        self.chain, self.key = folder / "hosts.pem", folder / "hosts.key"
        authority_key, request, extensions = folder / "authority.key", folder / "hosts.csr", folder / "hosts.ext"
        new_key = ["-newkey", "rsa:2048", "-nodes", "-keyout"]
        signer = ["-CA", str(self.authority), "-CAkey", str(authority_key), "-CAcreateserial", "-days", _DAYS]
        name = ["-subj", "/CN=Synkti boot run", "-out", str(self.authority)]
        call(["openssl", "req", "-x509", *new_key, str(authority_key), "-days", _DAYS, *name])
        extensions.write_text("subjectAltName=" + ",".join(f"DNS:{host}" for host in hosts) + "\n")
        call(["openssl", "req", *new_key, str(self.key), "-subj", "/CN=aws", "-out", str(request)])
        files = ["-extfile", str(extensions), "-out", str(self.chain)]
        call(["openssl", "x509", "-req", "-in", str(request), *signer, *files])


class AwsGateway:
    """Passes each TLS connection on to the embedded AWS. hosts: the server names that were called so far."""

    def __init__(self, endpoint: str, certificates: Certificates) -> None:
        parts = urlsplit(endpoint)
        self._host, self._port = parts.hostname, parts.port
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(certificates.chain, certificates.key)
        self._context.sni_callback = self._note
        self._server: asyncio.Server | None = None
        self.hosts: set[str] = set()

    async def start(self, address: str) -> None:
        """Listen on PORT of the address. Raises OSError."""
        self._server = await asyncio.start_server(self._serve, address, PORT, ssl=self._context)

    def close(self) -> None:
        """Accept no more connections."""
        if self._server is not None:
            self._server.close()

    def _note(self, _socket: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
        self.hosts.add(name or "")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Either side may go at any time, as in a network; at the run's end connections are open.
        with contextlib.suppress(OSError, asyncio.CancelledError):
            aws_reader, aws_writer = await asyncio.open_connection(self._host, self._port)
            try:
                pipes = [
                    asyncio.create_task(_copy(reader, aws_writer)),
                    asyncio.create_task(_copy(aws_reader, writer)),
                ]
                await asyncio.wait(pipes, return_when=asyncio.FIRST_COMPLETED)
                for pipe in pipes:
                    pipe.cancel()
                await asyncio.gather(*pipes, return_exceptions=True)
            finally:
                aws_writer.close()
        writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_CHUNK):
        writer.write(data)
        await writer.drain()
