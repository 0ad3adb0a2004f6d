"""Check a request's head: HTTP/1.0 or HTTP/1.1, one host, one unambiguous end.

llhttp, which parses it, also accepts RTSP, HTTP/0.9, other protocols' methods, transfer codings that are not decoded,
and a request without a host. A proxy or a server behind this one may read such a request differently (RFC 9112, 3.2 and
6.1).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_HOST = re.compile(rb"[\w.~!$&'()*+;=%:\[\]-]*\Z", re.ASCII)
"""uri-host and port of RFC 3986, without the comma: two Host lines are joined by one."""


class ErrorResponse(NamedTuple):
    """An error for the client: the answer to a refused request."""

    status: int
    code: str
    message: str


def check_head(method: str, version: str, headers: Mapping[bytes, bytes], *, is_http: bool) -> ErrorResponse | None:
    """Return the error of a head; None where it is valid.

    headers: by names in lower case; is_http: whether its first line has HTTP/.
    """
    if not is_http or version not in ("1.0", "1.1"):
        return ErrorResponse(505, "http_version_not_supported", "This server supports HTTP/1.1 and HTTP/1.0.")
    if method not in _METHODS:
        return ErrorResponse(501, "method_not_supported", f"No route of this server has the method {method[:32]}.")
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
            501, "transfer_coding_not_supported", "The only transfer coding of this server is chunked, once."
        )
    return None
