"""Decide which callers a server without keys accepts: programs, but no web pages in browsers that reach it.

Such servers are the gateway and a node's admin listener. Browsers send pages' requests to any address, also to
127.0.0.1 and to private ones. Rules:

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
    """The accepted hosts and origins of a server. server: its name in messages; has_options: whether it has options."""

    hosts: Collection[str] = ()
    """Public names under which the server may be called."""

    origins: Collection[str] = ()
    """Origins of pages that may call it, as browsers send them (http://localhost:3000)."""

    server: str = "gateway"
    has_options: bool = True

    def rejection_reason(self, headers: Mapping[bytes, bytes]) -> str | None:
        """Return why a request is rejected, with an advice; None where it is accepted. headers: by lower case names."""
        host = headers.get(b"host", b"").decode("latin-1")
        if host and not self._is_own_host(host):
            option = ", or start it with --allow-host NAME" if self.has_options else ""
            return (
                f"The Host {host[:_MAX_SHOWN_CHARS]!r} is not a name of this {self.server}; call it by its IP address "
                f"or localhost{option}."
            )
        origin = headers.get(b"origin", b"").decode("latin-1")
        if origin and not self.is_allowed_origin(origin) and origin not in (f"http://{host}", f"https://{host}"):
            return self._foreign_origin(f"The origin {origin[:_MAX_SHOWN_CHARS]!r}")
        site = headers.get(b"sec-fetch-site", b"none").lower()
        if not origin and site not in _SAFE_SITES:
            return self._foreign_origin("A web page of another origin")
        return None

    def is_allowed_origin(self, origin: str) -> bool:
        """Return True where pages of this origin may read responses."""
        return origin in self.origins

    def _foreign_origin(self, who: str) -> str:
        option = "; start it with --allow-origin ORIGIN if it should" if self.has_options else ""
        return f"{who} may not call this {self.server}{option}."

    def _is_own_host(self, host: str) -> bool:
        """Return True for addresses and names without a dot, which are not in the public DNS, and configured hosts."""
        match = _HOST.fullmatch(host)
        if match is None:
            return False
        name = match[1] or match[2]
        return "." not in name or _is_address(name) or name.lower() in self.hosts


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
