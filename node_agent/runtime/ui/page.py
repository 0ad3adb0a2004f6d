"""Answer the routes of the page: its files, which hold no data, and snapshots, which need a key of scope fleet.

Where the fleet has no keys, a web page of another site is refused by its Host and Origin: a browser that reaches this
node would send its requests, too.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from node_agent.contract.errors import RequestRejected
from node_agent.core.access.caller import Scope
from node_agent.core.http.callers import CallerPolicy
from node_agent.core.http.static_file import StaticFile
from node_agent.core.openai.routes import PAGE_FILES, SNAPSHOT, SNAPSHOT_EVENTS
from node_agent.ports import ServerRequest
from node_agent.runtime.client_api.client_keys import ClientKeys
from node_agent.runtime.ui.snapshots import Snapshots
from node_agent.runtime.ui.viewers import Viewers

_OFF = "This node's page is off; its operator can turn it on (SYNKTI_UI=on)."
_CALLERS = CallerPolicy(server="page", has_options=False)
_CACHE = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"))


class Page:
    """Answers the page's routes.

    Args:
        files: of the page, by their routes.
        snapshots: made for it.
        keys: recognize its viewers.
        is_on: False where the setting turns the page off.
    """

    def __init__(self, files: Mapping[str, StaticFile], snapshots: Snapshots, keys: ClientKeys, *, is_on: bool) -> None:
        self._files = files
        self._snapshots = snapshots
        self._keys = keys
        self._is_on = is_on
        self.viewers = Viewers(snapshots)
        self.handlers: Mapping[str, Callable[[ServerRequest], Awaitable[None]]] = {
            **{route: partial(self._file, route) for route in PAGE_FILES},
            SNAPSHOT: self._snapshot,
            SNAPSHOT_EVENTS: self._events,
        }

    async def run(self) -> None:
        """Send snapshots to viewers, until cancelled."""
        if self._is_on:
            await self.viewers.run()

    async def _file(self, route: str, request: ServerRequest) -> None:
        self._check(request)
        file = self._files.get(route)
        if file is None:
            raise RequestRejected(404, "unknown_route", "This node's package lacks the page's files.")
        if file.is_known_to(request.headers):
            request.respond(304, b"", b"", file.headers)
        else:
            request.respond(200, file.content, file.content_type, file.headers)

    async def _snapshot(self, request: ServerRequest) -> None:
        self._check(request)
        request.respond(200, self._snapshots.encoded(), more=_CACHE)

    async def _events(self, request: ServerRequest) -> None:
        self._check(request)

        def check_key() -> None:
            self._keys.identify(request.headers, request.target, Scope.FLEET)

        await self.viewers.serve(request, check_key)

    def _check(self, request: ServerRequest) -> None:
        """Raise RequestRejected where the page is off, or another site's page calls."""
        if not self._is_on:
            raise RequestRejected(404, "page_off", _OFF)
        if self._keys.state == "off" and (reason := _CALLERS.rejection_reason(request.headers)) is not None:
            raise RequestRejected(403, "caller_not_allowed", reason)
