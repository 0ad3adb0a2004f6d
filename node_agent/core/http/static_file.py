"""Answer a request for a file of this node's page: whole, or "not modified", with what a browser may do with it.

The page may load and call this node only, runs no script and no style that is not one of its files, cannot be framed,
sends its address nowhere, and takes no HTML from a text (Trusted Types).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)

_HEADERS = (
    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
    (b"cache-control", b"no-cache"),  # a browser asks each time whether the file has changed
)

_TYPES = {
    "html": b"text/html; charset=utf-8",
    "css": b"text/css; charset=utf-8",
    "js": b"text/javascript; charset=utf-8",
    "svg": b"image/svg+xml",
}


@dataclass(frozen=True)
class StaticFile:
    """A file, and what it is sent with. name: its own, with a suffix that has a type here."""

    name: str
    content: bytes
    content_type: bytes = field(init=False)
    etag: bytes = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "content_type", _TYPES[self.name.rpartition(".")[2]])
        object.__setattr__(self, "etag", b'"%b"' % hashlib.sha256(self.content).hexdigest()[:32].encode())

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """The headers of its responses, beside the content's type and length."""
        return [(b"etag", self.etag), *_HEADERS]

    def is_known_to(self, request: Mapping[bytes, bytes]) -> bool:
        """Return whether the client has this very file already. request: headers, by lower-case names."""
        known = request.get(b"if-none-match", b"")
        return self.etag in (etag.strip().removeprefix(b"W/") for etag in known.split(b","))
