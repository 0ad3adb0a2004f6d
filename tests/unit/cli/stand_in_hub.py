"""A hub on this machine that speaks Hugging Face's API over HTTP, and a store that it redirects large files to."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from cli.core.hub import git_blob_id

COMMIT = "c0ffee" * 6 + "abcd"
OTHER_COMMIT = "beef" * 10


@dataclass
class Repository:
    """files: by revision's commit; gated: needs a token in `allowed`; private: as gated, but not even listed."""

    commits: dict[str, dict[str, bytes]]
    branches: dict[str, str] = field(default_factory=lambda: {"main": COMMIT})
    gated: bool = False
    private: bool = False
    allowed: frozenset[str] = frozenset()


@dataclass
class StandInHub:
    """repositories: by name. large: bytes from which a file is in the store. requests: (where, path, token)."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    large: int = 300
    address: str = ""
    store: str = ""
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    broken: list[int] = field(default_factory=list)
    """Statuses of the next responses of the store, before it works; 0: a body that ends early."""

    claimed: dict[str, int] = field(default_factory=dict)
    """Sizes that the list states, by path, of files that are too large for a test."""

    damaged: frozenset[str] = frozenset()
    """Paths whose bytes are not those that the list states."""

    def add(self, name: str, files: dict[str, bytes], **more: Any) -> Repository:
        self.repositories[name] = Repository({COMMIT: files}, **more)
        return self.repositories[name]

    def tokens(self, where: str) -> set[str]:
        return {token for place, _, token in self.requests if place == where}


@contextmanager
def stand_in_hub() -> Iterator[StandInHub]:
    hub = StandInHub()
    servers = []
    for where in ("hub", "store"):
        kind = type("Handler", (_Handler,), {"hub": hub, "where": where})
        server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        servers.append(server)
    hub.address, hub.store = (f"http://127.0.0.1:{server.server_address[1]}" for server in servers)
    try:
        yield hub
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: StandInHub
    where: str
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        self.hub.requests.append((self.where, path, token))
        if self.where == "store":
            self._store(path)
        elif path.startswith("/api/models/"):
            self._list(path.removeprefix("/api/models/"), token)
        else:
            self._resolve(path, token)

    def _list(self, path: str, token: str) -> None:
        name, _, revision = path.partition("/revision/")
        found = self.hub.repositories.get(name)
        if found is None or (found.private and token not in found.allowed):
            self._refuse(401, "RepoNotFound")
            return
        commit = found.branches.get(revision or "main", revision)
        if commit not in found.commits:
            self._refuse(404, "RevisionNotFound")
            return
        siblings = [_entry(path, body, self.hub.large) for path, body in found.commits[commit].items()]
        for entry in siblings:
            entry["size"] = self.hub.claimed.get(entry["rfilename"], entry["size"])
        self._send(json.dumps({"id": name, "sha": commit, "siblings": siblings}).encode())

    def _resolve(self, path: str, token: str) -> None:
        match = re.fullmatch(r"/(.+)/resolve/([0-9a-f]{40})/(.+)", path)
        assert match is not None
        repository = self.hub.repositories[match[1]]
        if (repository.gated or repository.private) and token not in repository.allowed:
            self._refuse(403 if token else 401, "GatedRepo")
            return
        body = repository.commits[match[2]][match[3]]
        if len(body) >= self.hub.large:
            self.send_response(302)
            self.send_header("Location", f"{self.hub.store}{path}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self._send_range(match[3], body)

    def _store(self, path: str) -> None:
        match = re.fullmatch(r"/(.+)/resolve/([0-9a-f]{40})/(.+)", path)
        assert match is not None
        body = self.hub.repositories[match[1]].commits[match[2]][match[3]]
        if self.hub.broken and (status := self.hub.broken.pop(0)):
            self._refuse(status, "")
            return
        self._send_range(match[3], body)

    def _send_range(self, path: str, body: bytes) -> None:
        start, end = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
        if path in self.hub.damaged:
            body = bytes(byte ^ 1 for byte in body)
        self._send(body[start : end + 1], 206)

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, body: bytes, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _entry(path: str, body: bytes, large: int) -> dict[str, Any]:
    entry: dict[str, Any] = {"rfilename": path, "size": len(body), "blobId": git_blob_id(body)}
    if len(body) >= large:
        entry["lfs"] = {"sha256": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 130}
    return entry
