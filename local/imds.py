"""A stand-in for IMDSv2, one for each emulated instance, on the instance's own loopback address.

What it answers is a pure function of its state (`answer`); the server around it only moves bytes.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from node_agent.contract.instants import format_instant

PORT = 8003
TOKEN_PATH = "/latest/api/token"
_ROOT = "/latest/meta-data/"
_MAX_TTL_S = 21_600


@dataclass
class InstanceMetadata:
    """The state of one instance's metadata, and its answers. deadline, rebalance_at: unix seconds."""

    instance_id: str
    zone: str
    region: str
    instance_type: str
    address: str
    deadline: float | None = None
    rebalance_at: float | None = None
    _tokens: dict[str, float] = field(default_factory=dict)

    def answer(self, method: str, path: str, headers: Mapping[str, str], now: float, fresh: str) -> tuple[int, str]:
        """Status and body. headers: names in lower case; fresh: what a new token would be."""
        if path == TOKEN_PATH:
            return self._token(method, headers, now, fresh)
        expires = self._tokens.get(headers.get("x-aws-ec2-metadata-token", ""))
        if expires is None or expires <= now:
            return 401, ""
        if method != "GET" or not path.startswith(_ROOT):
            return 404, ""
        value = self._values().get(path.removeprefix(_ROOT))
        return (200, value) if value is not None else (404, "")

    def _token(self, method: str, headers: Mapping[str, str], now: float, fresh: str) -> tuple[int, str]:
        ttl = headers.get("x-aws-ec2-metadata-token-ttl-seconds", "")
        if method != "PUT":
            return 405, ""
        if not ttl.isdigit() or not 1 <= int(ttl) <= _MAX_TTL_S:
            return 400, ""
        self._tokens = {token: expires for token, expires in self._tokens.items() if expires > now}
        self._tokens[fresh] = now + int(ttl)
        return 200, fresh

    def _values(self) -> dict[str, str | None]:
        action = {"action": "terminate", "time": format_instant(self.deadline)} if self.deadline else None
        rebalance = {"noticeTime": format_instant(self.rebalance_at)} if self.rebalance_at else None
        return {
            "instance-id": self.instance_id,
            "instance-type": self.instance_type,
            "instance-life-cycle": "spot",
            "local-ipv4": self.address,
            "placement/availability-zone": self.zone,
            "placement/region": self.region,
            "spot/instance-action": json.dumps(action) if action else None,
            "events/recommendations/rebalance": json.dumps(rebalance) if rebalance else None,
        }


class ImdsServer:
    """Serves one instance's metadata on its address until it is closed. Raises OSError where it cannot listen."""

    def __init__(self, metadata: InstanceMetadata) -> None:
        self.url = f"http://{metadata.address}:{PORT}"
        self._server = ThreadingHTTPServer((metadata.address, PORT), _handler(metadata))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _handler(metadata: InstanceMetadata) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _respond(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, body = metadata.answer(self.command, self.path, headers, time.time(), secrets.token_urlsafe(32))
            data = body.encode()
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_PUT = _respond  # http.server's names

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: it is asked twice a second."""

    return Handler
