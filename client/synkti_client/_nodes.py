"""Which nodes there are, and which to ask next: those that failed last come last."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

REFRESH_S = 10.0
NODES_PATH = "/v1/synkti/nodes"
_MAX_NODES = 2000


class Nodes:
    """URLs of nodes. given: those to begin with, and to come back to when no other answers."""

    def __init__(self, given: Iterable[str], discovery: str | None = None) -> None:
        self._given = tuple(_base(url) for url in given)
        self._discovery = discovery
        if not self._given and discovery is None:
            raise ValueError("give at least one node, or a discovery URL")
        self._known = list(self._given)
        self._failures: dict[str, float] = {}
        self._refreshed_at = float("-inf")
        random.shuffle(self._known)  # so that many clients do not all begin with the first

    def __len__(self) -> int:
        return len(self._known)

    def order(self) -> list[str]:
        """All nodes; those that failed come after those that did not, the one that failed last at the end."""
        return sorted(self._known, key=lambda url: self._failures.get(url, 0.0))

    def failed(self, url: str, now: float) -> None:
        self._failures[url] = now

    def answered(self, url: str) -> None:
        self._failures.pop(url, None)

    def refresh_from(self, now: float) -> str | None:
        """Where to ask for the list now; None while it is fresh. Once asked, it counts as fresh, whatever comes."""
        if now - self._refreshed_at < REFRESH_S:
            return None
        self._refreshed_at = now
        if self._discovery is not None:
            return self._discovery
        ordered = self.order()
        return ordered[0] + NODES_PATH if ordered else None

    def stale(self) -> None:
        """Ask for the list before the next request."""
        self._refreshed_at = float("-inf")

    def learned(self, body: bytes) -> None:
        """The list as a node told it; nonsense and an empty one change nothing."""
        try:
            told = json.loads(body)["nodes"]
            fronts = [_base(f"http://{node['front']}") for node in told if node["model"]]
        except (ValueError, KeyError, TypeError):
            return
        self.replace(fronts)

    def replace(self, urls: Iterable[str]) -> None:
        urls = list(urls)[:_MAX_NODES]
        if not urls:
            return
        # Those given stay, at the end: a node that is not ready now is the way back when all others are gone.
        self._known = list(dict.fromkeys([*[u for u in self._known if u in urls], *urls, *self._given]))
        listed = set(urls)
        for url in self._known:
            if url not in listed:
                self._failures.setdefault(url, 1.0)
        self._failures = {url: at for url, at in self._failures.items() if url in self._known}


def _base(url: str) -> str:
    parts: Any = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"not the URL of a node: {url!r}; they look like http://10.0.1.5:8000")
    return f"{parts.scheme}://{parts.netloc}"
