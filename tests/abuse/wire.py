"""A raw HTTP client for abuse tests: sends any bytes to a node, and reads what it returns."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
import time
from typing import Any

WITHIN_S = 30.0
_REFUSAL_BYTES = 4_096
_JSON = "content-type: application/json\r\n"


def connect(host: str, port: int = 8000, receives: int | None = None, source: str | None = None) -> socket.socket:
    """Open a connection. receives: unread bytes that the kernel may hold; source: its local address."""
    plain = socket.socket()
    try:
        plain.settimeout(WITHIN_S)
        if receives is not None:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receives)
        if source is not None:
            plain.bind((source, 0))
        plain.connect((host, port))
    except OSError:
        plain.close()
        raise
    return plain


def post(path: str, body: bytes | dict[str, Any], more: str = "connection: close\r\n") -> bytes:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return f"POST {path} HTTP/1.1\r\nhost: x\r\n{_JSON}{more}content-length: {len(raw)}\r\n\r\n".encode() + raw


def rest(plain: socket.socket) -> bytes:
    """Read until the connection ends, or until an error response that announces its end."""
    got = bytearray()
    with contextlib.suppress(ConnectionError):
        while data := plain.recv(65536):
            got += data
            if _is_refusal(bytes(got[-_REFUSAL_BYTES:])):
                break
    return bytes(got)


def _is_refusal(end: bytes) -> bool:
    """Return True if these last bytes end with a whole `connection: close` response: the server may linger after it."""
    heads = [found.start() for found in re.finditer(rb"HTTP/1\.1 \d{3} ", end)]
    head, _, body = end[heads[-1] if heads else 0 :].partition(b"\r\n\r\n")
    size = re.search(rb"content-length: (\d+)", head)
    return b"connection: close" in head and size is not None and len(body) == int(size[1])


def send(host: str, raw: bytes, port: int = 8000, source: str | None = None) -> bytes:
    """Send these bytes, and read until the connection ends. A server that closes early is no error here."""
    with connect(host, port, source=source) as plain:
        with contextlib.suppress(ConnectionError):
            plain.sendall(raw)
        return rest(plain)


def get(host: str, path: str, port: int = 8000, source: str | None = None) -> bytes:
    return send(host, f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode(), port, source)


def status_of(answer: bytes) -> list[int]:
    """Return the status of every response in these bytes, 102 excepted."""
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answer) if status != b"102"]


def error_code(answer: bytes) -> str:
    return str(json.loads(answer.rpartition(b"\r\n\r\n")[2])["error"]["code"])


class Canary(threading.Thread):
    """Reads another client's stream in the background, and measures its longest silence in seconds."""

    def __init__(self, host: str, body: dict[str, Any]) -> None:
        super().__init__(daemon=True)
        self.events = 0
        self.longest_s = 0.0
        self._plain = connect(host)
        self._plain.sendall(post("/v1/completions", body))
        self._stops = False

    def run(self) -> None:
        at = time.monotonic()
        with contextlib.suppress(OSError):
            while not self._stops and (data := self._plain.recv(65536)):
                now = time.monotonic()
                if self.events:
                    self.longest_s = max(self.longest_s, now - at)
                at, self.events = now, self.events + data.count(b"data: ")
        if not self._stops:
            self.longest_s = max(self.longest_s, time.monotonic() - at)

    def __enter__(self) -> Canary:
        self.start()
        return self

    def __exit__(self, *args: object) -> None:
        self._stops = True
        self._plain.close()
        self.join(WITHIN_S)
