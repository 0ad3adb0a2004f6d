"""Decide which callers a gateway accepts: programs on this machine, but no web pages in its browsers.

A gateway needs no key, and browsers send pages' requests to any address, also to 127.0.0.1. Rules:

* a request whose `Host` is a public name is from a page whose name was made to resolve to this address (DNS rebinding);
* a request whose `Origin` or `Sec-Fetch-Site` is another site's is from a page;
* programs send neither header; pages that may call are configured.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

_SAFE_SITES = frozenset({b"same-origin", b"none"})
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::[0-9]+)?")
_MAX_SHOWN_CHARS = 100
"""The most characters of a rejected header in an error."""


@dataclass(frozen=True)
class CallerPolicy:
    """The accepted hosts and origins."""

    hosts: Collection[str] = ()
    """Public names under which the gateway may be called."""

    origins: Collection[str] = ()
    """Origins of pages that may call it, as browsers send them (http://localhost:3000)."""

    def rejection_reason(self, headers: Mapping[bytes, bytes]) -> str | None:
        """Return why a request is rejected, with an advice; None where it is accepted. headers: by lower case names."""
        host = headers.get(b"host", b"").decode("latin-1")
        if host and not self._is_own_host(host):
            return (
                f"The Host {host[:_MAX_SHOWN_CHARS]!r} is not a name of this gateway; call it by its IP address or "
                "localhost, or start it with --allow-host NAME."
            )
        origin = headers.get(b"origin", b"").decode("latin-1")
        if origin and not self.is_allowed_origin(origin) and origin not in (f"http://{host}", f"https://{host}"):
            return _foreign_origin(f"The origin {origin[:_MAX_SHOWN_CHARS]!r}")
        site = headers.get(b"sec-fetch-site", b"none").lower()
        if not origin and site not in _SAFE_SITES:
            return _foreign_origin("A web page of another origin")
        return None

    def is_allowed_origin(self, origin: str) -> bool:
        """Return True where pages of this origin may read responses."""
        return origin in self.origins

    def _is_own_host(self, host: str) -> bool:
        """Return True for addresses and names without a dot, which are not in the public DNS, and configured hosts."""
        match = _HOST.fullmatch(host)
        if match is None:
            return False
        name = match[1] or match[2]
        return "." not in name or _is_address(name) or name.lower() in self.hosts


def _foreign_origin(who: str) -> str:
    return f"{who} may not call this gateway; start it with --allow-origin ORIGIN if it should."


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
