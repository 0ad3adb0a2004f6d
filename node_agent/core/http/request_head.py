"""What a request's head has to be for a door to take it: HTTP/1.0 or HTTP/1.1, one host, one way to find its end.

llhttp, which reads it, also takes RTSP, HTTP/0.9, other protocols' methods, transfer codings that nobody decodes, and
a request without a host. Whoever stands before or behind a door may read such a request in another way (RFC 9112,
3.2 and 6.1).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_HOST = re.compile(rb"[\w.~!$&'()*+;=%:\[\]-]*\Z", re.ASCII)
"""uri-host and port of RFC 3986, without the comma: two Host lines are joined by one."""


class ErrorResponse(NamedTuple):
    """Why a request is refused, as its client reads it."""

    status: int
    code: str
    message: str


def check_head(method: str, version: str, headers: Mapping[bytes, bytes], *, is_http: bool) -> ErrorResponse | None:
    """What is wrong with a head. headers: by names in lower case; is_http: whether its first line says HTTP/."""
    if not is_http or version not in ("1.0", "1.1"):
        return ErrorResponse(505, "http_version_not_supported", "This door speaks HTTP/1.1 and HTTP/1.0.")
    if method not in _METHODS:
        return ErrorResponse(501, "method_not_supported", f"No route of this door has the method {method[:32]}.")
    host = headers.get(b"host")
    if host is None:
        if version == "1.1":
            return ErrorResponse(400, "invalid_http", "A request of HTTP/1.1 names its Host.")
    elif not _HOST.match(host):
        return ErrorResponse(400, "invalid_http", "A request has one Host line, with a host and perhaps a port.")
    coding = headers.get(b"transfer-encoding")
    if coding is None:
        return None
    if version == "1.0":
        return ErrorResponse(400, "invalid_http", "HTTP/1.0 has no Transfer-Encoding.")
    if coding.strip().lower() != b"chunked":
        return ErrorResponse(
            501, "transfer_coding_not_supported", "The only transfer coding of this door is chunked, once."
        )
    return None
