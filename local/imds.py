"""A fake IMDSv2, one process for each emulated instance, on the instance's own loopback address.

An instance that really boots (local/boot) has it at IMDS's own address, in its network namespace.

    python -m local.imds FILE [ADDRESS PORT]      serves FILE (`InstanceMetadata.to_json`), read at every request

Its answers are a pure function of its state (`answer`); the server only moves bytes. It is a process of its own so that
a busy run cannot delay it: a notice has to be seen within a second.
"""

from __future__ import annotations

import json
import re
import secrets
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from node_agent.contract.timestamps import format_instant

PORT = 8009
ADDRESS, REAL_PORT = "169.254.169.254", 80
"""Where EC2 has it."""

TOKEN_PATH = "/latest/api/token"
_VERSION = re.compile(r"/(?:latest|20[0-9]{2}-[0-9]{2}-[0-9]{2})/(.*)")
"""cloud-init reads a dated version of the same tree."""

_MAX_TTL_S = 21_600
_CREDENTIALS_LIFE_S = 21_600


@dataclass(frozen=True)
class InstanceMetadata:
    """One instance's metadata. deadline, rebalance_at: unix seconds, None without a notice.

    lifecycle: the state that the Auto Scaling group wants the instance in, Terminated at a scale-in; user_data: a
    text, None without any; role: the instance profile's, with `access_key` and `secret_key`; empty without one.
    """

    instance_id: str
    zone: str
    region: str
    instance_type: str
    address: str
    deadline: float | None = None
    rebalance_at: float | None = None
    lifecycle: str = "InService"
    user_data: str | None = None
    role: str = ""
    access_key: str = ""
    secret_key: str = ""

    def to_json(self) -> str:
        """Format the metadata as the service's file has it."""
        return json.dumps(asdict(self))

    def values(self, now: float) -> dict[str, str | None]:
        """Return the body of each path below `meta-data/`; None is a 404. now: unix seconds."""
        action = {"action": "terminate", "time": format_instant(self.deadline)} if self.deadline else None
        rebalance = {"noticeTime": format_instant(self.rebalance_at)} if self.rebalance_at else None
        return {
            "instance-id": self.instance_id,
            "instance-type": self.instance_type,
            "instance-life-cycle": "spot",
            "local-ipv4": self.address,
            "autoscaling/target-lifecycle-state": self.lifecycle,
            "placement/availability-zone": self.zone,
            "placement/region": self.region,
            "spot/instance-action": json.dumps(action) if action else None,
            "events/recommendations/rebalance": json.dumps(rebalance) if rebalance else None,
            "local-hostname": f"ip-{self.address.replace('.', '-')}.ec2.internal",
            f"iam/security-credentials/{self.role}": self._credentials(now) if self.role else None,
        }

    def _credentials(self, now: float) -> str:
        document = {
            "Code": "Success",
            "Type": "AWS-HMAC",
            "LastUpdated": _seconds(now),
            "Expiration": _seconds(now + _CREDENTIALS_LIFE_S),
            "AccessKeyId": self.access_key,
            "SecretAccessKey": self.secret_key,
            "Token": "of-the-role",
        }
        return json.dumps(document)

    def read(self, path: str, now: float) -> str | None:
        """Return the body of a path below the version: a value, or a folder's names, one a line. None: not found."""
        identity = {"instanceId": self.instance_id, "region": self.region, "availabilityZone": self.zone}
        tree = {f"meta-data/{name}": value for name, value in self.values(now).items()}
        tree |= {"user-data": self.user_data, "dynamic/instance-identity/document": json.dumps(identity)}
        values = {name: value for name, value in tree.items() if value is not None}
        if path in values:
            return values[path]
        folder = f"{path.rstrip('/')}/"
        inside = [name.removeprefix(folder).partition("/") for name in values if name.startswith(folder)]
        return "\n".join(sorted({first + slash for first, slash, _ in inside})) or None


def _seconds(instant: float) -> str:
    """Format an instant without a fraction, as AWS's documents have it."""
    return f"{format_instant(instant)[:19]}Z"


class MetadataService:
    """Applies IMDSv2's token rules to metadata that may change between two requests."""

    def __init__(self) -> None:
        self.tokens: dict[str, float] = {}

    def answer(
        self, metadata: InstanceMetadata, method: str, path: str, headers: Mapping[str, str], now: float, fresh: str
    ) -> tuple[int, str]:
        """Return status and body. headers: names in lower case; fresh: the next new token."""
        if path == TOKEN_PATH:
            return self._token(method, headers, now, fresh)
        expires = self.tokens.get(headers.get("x-aws-ec2-metadata-token", ""))
        if expires is None or expires <= now:
            return 401, ""
        found = _VERSION.fullmatch(path)
        if method != "GET" or found is None:
            return 404, ""
        value = metadata.read(found.group(1), now)
        return (200, value) if value is not None else (404, "")

    def _token(self, method: str, headers: Mapping[str, str], now: float, fresh: str) -> tuple[int, str]:
        ttl = headers.get("x-aws-ec2-metadata-token-ttl-seconds", "")
        if method != "PUT":
            return 405, ""
        if not ttl.isdigit() or not 1 <= int(ttl) <= _MAX_TTL_S:
            return 400, ""
        self.tokens = {token: expires for token, expires in self.tokens.items() if expires > now}
        self.tokens[fresh] = now + int(ttl)
        return 200, fresh


class ImdsServer(ThreadingHTTPServer):
    """Serves `read`'s metadata on `address`. Raises OSError where it cannot listen."""

    daemon_threads = True

    def __init__(self, address: str, read: Callable[[], InstanceMetadata], port: int = PORT) -> None:
        self.read = read
        self.service = MetadataService()
        super().__init__((address, port), _Handler)


def url(address: str) -> str:
    """Return the base URL of the service on an instance's address."""
    return f"http://{address}:{PORT}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ImdsServer

    def _respond(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        fresh = secrets.token_urlsafe(32)
        status, body = self.server.service.answer(
            self.server.read(), self.command, self.path, headers, time.time(), fresh
        )
        data = body.encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_PUT = _respond  # http.server's names

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: there are two requests a second."""


def main(file: Path, address: str = "", port: int = PORT) -> None:
    """Serve the file's metadata until killed. Raises OSError where the address cannot be listened on.

    address: by default the instance's own.
    """

    def read() -> InstanceMetadata:
        return InstanceMetadata(**json.loads(file.read_text()))

    ImdsServer(address or read().address, read, port).serve_forever()


if __name__ == "__main__":
    listen = (sys.argv[2], int(sys.argv[3])) if len(sys.argv) > 3 else ("", PORT)
    main(Path(sys.argv[1]), *listen)
