"""Which nodes there are, and which to ask next: those that failed last come last."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from synkti_client._httpx import httpx

REFRESH_S = 2.0
_ASKED_AT_ONCE = 4
_LONG_AGO = 1.0
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
        self._heard: str | None = None
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

    def refresh_from(self, now: float) -> list[str]:
        """Whom to ask for the list now, one after another until one answers; nobody while it is fresh."""
        if now - self._refreshed_at < REFRESH_S:
            return []
        self._refreshed_at = now
        nodes = [url + NODES_PATH for url in self.order()[:_ASKED_AT_ONCE]]
        return [self._discovery, *nodes] if self._discovery is not None else nodes

    def stale(self) -> None:
        """Ask for the list before the next request."""
        self._refreshed_at = float("-inf")

    def take_heard(self) -> str | None:
        """The node that told the list last, once: it answered a moment ago, which cannot be said of any other."""
        heard, self._heard = self._heard, None
        return heard

    def learned(self, url: str, body: bytes) -> bool:
        """The list as it was told at `url`; nonsense and an empty one change nothing, and are False."""
        fronts = _fronts(body)
        self.replace(fronts, [url for url, serves in fronts.items() if not serves])
        self._heard = url.removesuffix(NODES_PATH) if fronts and url != self._discovery else None
        return bool(fronts)

    def replace(self, urls: Iterable[str], not_yet: Iterable[str] = ()) -> None:
        """Another list, in place of the one before. not_yet: those of it that do not serve now."""
        listed = list(urls)[:_MAX_NODES]
        if not listed:
            return
        # Those given stay, at the end: they may be the way back when all others are gone.
        last = {*not_yet, *self._given} - (set(listed) - set(not_yet))
        kept = [url for url in self._known if url in listed]
        self._known = list(dict.fromkeys([*kept, *listed, *self._given]))
        self._failures = {url: at for url, at in self._failures.items() if url in self._known}
        for url in last:
            self._failures.setdefault(url, _LONG_AGO)


def _fronts(body: bytes) -> dict[str, bool]:
    """The nodes of a list, and whether they serve a model; an entry that cannot be read is not there."""
    try:
        listed: Any = json.loads(body)["nodes"]
        entries = [(f"http://{node['front']}", bool(node["model"])) for node in listed]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    fronts = {}
    for url, serves in entries:
        with contextlib.suppress(ValueError):
            fronts[_base(url)] = serves
    return fronts


def _base(url: str) -> str:
    """Scheme, host and port. Raises ValueError."""
    try:
        parts = urlsplit(url)
        is_usable = (
            parts.scheme in ("http", "https")
            and parts.hostname
            and parts.port != 0
            and url.isascii()
            and " " not in url
        )
        httpx.URL(url)  # it is what connects, and reads URLs in its own way
    except (ValueError, httpx.InvalidURL):
        is_usable = False
    if not is_usable:
        raise ValueError(f"not the URL of a node: {url!r}; they look like http://10.0.1.5:8000")
    return f"{parts.scheme}://{parts.netloc}"
