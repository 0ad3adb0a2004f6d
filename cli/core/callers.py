"""Who may call a gateway: programs on this machine, but no web page that a browser on it happens to show.

A gateway needs no key of its own, and a browser sends a page's requests to any address, 127.0.0.1 included. Rules kept
here:

* a request whose `Host` is a public name is a page's that had its name resolve to this address (DNS rebinding);
* a request whose `Origin`, or whose `Sec-Fetch-Site`, is another site's is a page's;
* programs send neither; pages that may call are named.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

_SAFE_SITES = frozenset({b"same-origin", b"none"})
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::[0-9]+)?")
_SHOWN = 100
"""Characters of a stranger's header in an error."""


@dataclass(frozen=True)
class Callers:
    """hosts: further names under which the gateway is called; origins: of pages that may call it, as browsers send them
    (http://localhost:3000).
    """

    hosts: Collection[str] = ()
    origins: Collection[str] = ()

    def fault(self, headers: Mapping[bytes, bytes]) -> str | None:
        """Why a request is refused, and what to do; None where it may pass. headers: by lower case names."""
        host = headers.get(b"host", b"").decode("latin-1")
        if host and not self._is_own(host):
            return (
                f"The Host {host[:_SHOWN]!r} is not a name of this gateway; call it by its IP address or localhost, "
                "or start it with --allow-host NAME."
            )
        origin = headers.get(b"origin", b"").decode("latin-1")
        if origin and not self.is_allowed(origin) and origin not in (f"http://{host}", f"https://{host}"):
            return _foreign(f"The origin {origin[:_SHOWN]!r}")
        site = headers.get(b"sec-fetch-site", b"none").lower()
        if not origin and site not in _SAFE_SITES:
            return _foreign("A web page of another origin")
        return None

    def is_allowed(self, origin: str) -> bool:
        """Whether pages of this origin may read answers."""
        return origin in self.origins

    def _is_own(self, host: str) -> bool:
        """Addresses and single words are no names in the public DNS."""
        match = _HOST.fullmatch(host)
        if match is None:
            return False
        name = match[1] or match[2]
        return "." not in name or _is_address(name) or name.lower() in self.hosts


def _foreign(who: str) -> str:
    return f"{who} may not call this gateway; start it with --allow-origin ORIGIN if it should."


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
