"""The list of known nodes, ordered by preference: the nodes that failed most recently come last."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from synkti_client._httpx import httpx

REFRESH_S = 2.0
MIN_REFRESH_S = 0.25
"""Between two queries, also after failures: a thousand streams that lose their node at once need one list, not one
each."""

_MAX_QUERIED = 4
_LONG_AGO = 1.0
NODES_PATH = "/v1/synkti/nodes"
_MAX_NODES = 2000


class Nodes:
    """The URLs of nodes.

    seeds: the URLs to start with, and to fall back to when no other node answers; discovery: a URL of the list of
    nodes; server_name: the name in the nodes' certificates, None for the host of each URL. Raises ValueError where both
    are missing, or a URL is invalid.
    """

    def __init__(self, seeds: Iterable[str], discovery: str | None = None, server_name: str | None = None) -> None:
        self._seeds = tuple(_normalize(url) for url in seeds)
        self._discovery = discovery
        self._server_name = server_name
        if not self._seeds and discovery is None:
            raise ValueError("give at least one node, or a discovery URL")
        self._known = list(self._seeds)
        self.responded_at = float("-inf")
        """When a node last began to answer some request, in seconds of the monotonic clock."""

        self.credentials: dict[str, str] = {}
        """The headers with the API key of the last request that had one: nodes require it for their list, too."""

        self._failed_at: dict[str, float] = {}
        self._queried_at = float("-inf")
        self._is_stale = False
        self._last_responder: str | None = None
        random.shuffle(self._known)  # so that many clients do not all start with the same node

    def __len__(self) -> int:
        return len(self._known)

    def extensions(self, url: str, timeout: dict[str, Any]) -> dict[str, Any]:
        """Return httpx's extensions of a request to `url`. timeout: as httpx has it."""
        if self._server_name is None or url == self._discovery:
            return {"timeout": timeout}
        return {"timeout": timeout, "sni_hostname": self._server_name}

    def by_preference(self) -> list[str]:
        """Return all nodes: first those that did not fail, then the others, the most recent failure last."""
        return sorted(self._known, key=lambda url: self._failed_at.get(url, 0.0))

    def mark_failed(self, url: str, now: float) -> None:
        """Record a failure. now: seconds of the monotonic clock."""
        self._failed_at[url] = now

    def mark_responsive(self, url: str, now: float) -> None:
        """Clear a node's failure, because it began to answer. now: seconds of the monotonic clock."""
        self._failed_at.pop(url, None)
        self.responded_at = now

    def list_urls(self, now: float) -> list[str]:
        """Return the URLs from which to refresh the list, in order; none while it is fresh. now: monotonic seconds."""
        if now - self._queried_at < (MIN_REFRESH_S if self._is_stale else REFRESH_S):
            return []
        self._queried_at, self._is_stale = now, False
        nodes = [url + NODES_PATH for url in self.by_preference()[:_MAX_QUERIED]]
        return [self._discovery, *nodes] if self._discovery is not None else nodes

    def invalidate(self) -> None:
        """Refresh the list before the next request, but for MIN_REFRESH_S after the last query."""
        self._is_stale = True

    def pop_last_responder(self) -> str | None:
        """Return the node that sent the last list, once: it answered a moment ago, so it is the best candidate."""
        node, self._last_responder = self._last_responder, None
        return node

    def update_from(self, url: str, body: bytes) -> bool:
        """Apply the list in a response of `url`. An invalid or empty one changes nothing and returns False."""
        nodes = _parse_node_list(body)
        self.replace(nodes, [node for node, serves in nodes.items() if not serves])
        self._last_responder = url.removesuffix(NODES_PATH) if nodes and url != self._discovery else None
        return bool(nodes)

    def replace(self, urls: Iterable[str], not_yet: Iterable[str] = ()) -> None:
        """Replace the list. not_yet: the URLs of nodes that do not serve now; they come last."""
        listed = list(urls)[:_MAX_NODES]
        if not listed:
            return
        # The seeds stay, at the end: the client falls back to them when all others are gone.
        last = {*not_yet, *self._seeds} - (set(listed) - set(not_yet))
        kept = [url for url in self._known if url in listed]
        self._known = list(dict.fromkeys([*kept, *listed, *self._seeds]))
        self._failed_at = {url: at for url, at in self._failed_at.items() if url in self._known}
        for url in last:
            self._failed_at.setdefault(url, _LONG_AGO)


def _parse_node_list(body: bytes) -> dict[str, bool]:
    """Parse a list of nodes into URL -> serves a model. Entries that cannot be parsed are skipped."""
    try:
        answer: Any = json.loads(body)
        scheme = "https" if answer.get("scheme") == "https" else "http"  # nodes before TLS do not send it
        entries = [(f"{scheme}://{node['front']}", bool(node["model"])) for node in answer["nodes"]]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
    nodes = {}
    for url, serves in entries:
        with contextlib.suppress(ValueError):
            nodes[_normalize(url)] = serves
    return nodes


def _normalize(url: str) -> str:
    """Return a URL's scheme, host and port. Raises ValueError."""
    try:
        parts = urlsplit(url)
        is_usable = (
            parts.scheme in ("http", "https")
            and parts.hostname
            and parts.port != 0
            and url.isascii()
            and " " not in url
        )
        httpx.URL(url)  # httpx connects, and parses URLs in its own way
    except (ValueError, httpx.InvalidURL):
        is_usable = False
    if not is_usable:
        raise ValueError(f"not the URL of a node: {url!r}; they look like http://10.0.1.5:8000")
    return f"{parts.scheme}://{parts.netloc}"
