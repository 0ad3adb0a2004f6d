"""Runs moto as a second embedded AWS: the same clients and agents, another implementation of the services.

moto's own server needs packages that nothing else here does (Flask). This one is a process in which moto answers
`requests` (its documented use), and each HTTP request is passed on to the service that its signature names.
"""

from __future__ import annotations

import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock

import requests
from moto import mock_aws

HOST = "127.0.0.1"
_SCOPE = re.compile(r"Credential=[^/]+/\d{8}/([a-z0-9-]+)/([a-z0-9-]+)/aws4_request")
_HOP_BY_HOP = frozenset({"connection", "content-length", "transfer-encoding", "content-encoding", "server", "date"})
_ONE_AT_A_TIME = Lock()
"""moto's state is not made for threads: two conditional writes could both succeed."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == "/healthz":
            self._send(200, {}, b"ok")
            return
        scope = _SCOPE.search(self.headers.get("Authorization", ""))
        if scope is None:
            self._send(403, {}, b"the request is not signed")
            return
        region, service = scope.groups()
        headers = {name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection")}
        url = f"https://{service}.{region}.amazonaws.com{self.path}"
        with _ONE_AT_A_TIME:
            found = requests.request(self.command, url, headers=headers, data=body, timeout=30)
        self._send(found.status_code, dict(found.headers), found.content)

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in _HOP_BY_HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _answer  # the names that http.server calls

    def log_message(self, format: str, *arguments: object) -> None:  # http.server's name
        """Log nothing: a run has thousands of requests."""


def main() -> None:
    """Serve on the port of the first argument until the process is killed."""
    with mock_aws():
        ThreadingHTTPServer((HOST, int(sys.argv[1])), _Handler).serve_forever()


if __name__ == "__main__":
    main()
