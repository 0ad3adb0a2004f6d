"""Decide whether a page of another origin may call this node from a browser: CORS of the Fetch standard.

By default none may, while vLLM allows every origin: a node may be inside a network that the browser's user can reach
and the page's author cannot. The setting `allowed_origins` has the meaning of vLLM's argument.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from node_agent.contract.names import EVENT_IDS_HEADER, NODE_HEADER, ROUTE_HEADER, STREAM_HEADER

Headers = list[tuple[bytes, bytes]]

ANY = "*"
_MAX_AGE_S = 600
_METHODS = b"GET, POST, DELETE, OPTIONS"
_EXPOSED = ", ".join(("x-request-id", STREAM_HEADER, ROUTE_HEADER, NODE_HEADER, "retry-after")).encode()
_USUAL_HEADERS = f"authorization, content-type, last-event-id, x-request-id, {EVENT_IDS_HEADER}".encode()


class Origins:
    """The allowed origins, as browsers send them (`https://chat.example.com`), or `*` for all; none by default."""

    def __init__(self, allowed: Collection[str] = ()) -> None:
        self._any = ANY in allowed
        self._allowed = frozenset(origin.encode() for origin in allowed)

    def __bool__(self) -> bool:
        return bool(self._allowed)

    def headers(self, request: Mapping[bytes, bytes]) -> Headers:
        """Return the CORS headers of a request's answer; none where no page sent it, or one that is not allowed."""
        origin = request.get(b"origin")
        if origin is None or not self._allows(origin):
            return []
        headers = [(b"access-control-allow-origin", b"*" if self._any else origin)]
        headers += [] if self._any else [(b"vary", b"origin")]
        return [*headers, (b"access-control-expose-headers", _EXPOSED)]

    def preflight(self, request: Mapping[bytes, bytes]) -> Headers | None:
        """Return the headers of a preflight's answer beside `headers`; None where it is none, or not allowed."""
        if request.get(b"access-control-request-method") is None or not self.headers(request):
            return None
        return [
            (b"access-control-allow-methods", _METHODS),
            (b"access-control-allow-headers", request.get(b"access-control-request-headers") or _USUAL_HEADERS),
            (b"access-control-max-age", b"%d" % _MAX_AGE_S),
        ]

    def _allows(self, origin: bytes) -> bool:
        return self._any or origin in self._allowed
