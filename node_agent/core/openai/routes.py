"""List the routes of the client API with their methods, and redirect paths with a trailing slash.

The list is exact: a path is a route only as it is spelled here, so that no second spelling (an escape, a doubled slash,
an absolute URL) means a route for an engine and none for this node. The path is compared as received, never decoded.

vLLM 0.32's routes have the same paths here. Some need the operator's permission (`contract/client_requests`). Its
routes for operators (load_lora_adapter, sleep, pause, collective_rpc, server_info, start_profile, reset_prefix_cache,
scale_elastic_ep) and for one engine alone (/invocations, /docs, /inference/v1, kv_event_sources) are absent: each would
act on one engine of the fleet, without authorization.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from node_agent.contract.client_requests import OPTIONAL_ROUTES
from node_agent.core.access.caller import Scope
from node_agent.core.openai.generation_request import ApiRoute

STREAMS = "/v1/streams/"
AUDIO_ROUTES = frozenset({"/v1/audio/transcriptions", "/v1/audio/translations"})
"""Routes whose body is a form."""

_GET, _POST = ("GET",), ("POST",)
PAGE = "/ui"
PAGE_FILES = {
    PAGE: "page.html",
    **{
        f"{PAGE}/{name}": name
        for name in (
            "style.css", "icon.svg", "main.js", "access.js", "dom.js", "fleet.js", "format.js", "live.js",
            "playground.js", "sse.js", "streams.js",
        )
    },
}  # fmt: skip
"""The files of the node's page (`node_agent/ui`), by their routes. They hold no data."""

SNAPSHOT = "/v1/synkti/snapshot"
SNAPSHOT_EVENTS = "/v1/synkti/snapshot/events"
"""What the page shows: once, and anew each second as server-sent events."""

NODE_ROUTES = {
    "/healthz": _GET,
    "/readyz": _GET,
    "/health": _GET,
    "/ping": ("GET", "POST"),
    "/load": _GET,
    "/openapi.json": _GET,
    "/v1/models": _GET,
    "/v1/synkti/nodes": _GET,
    SNAPSHOT: _GET,
    SNAPSHOT_EVENTS: _GET,
    **dict.fromkeys(PAGE_FILES, _GET),
}
"""Routes that this node answers at the client API, and their methods."""

ADMIN_ROUTES = {
    "/healthz": _GET,
    "/readyz": _GET,
    "/metrics": _GET,
    "/v1/synkti/drains": _GET,
}
"""Routes of the admin listener, and their methods."""

OPEN_ROUTES = frozenset({"/healthz", "/readyz", "/health", "/ping", "/load", "/openapi.json", *PAGE_FILES})
"""Routes that need no key: balancers, this machine's own scripts and generators of clients call them, and a browser
loads the page before it has a key. They show neither names nor content."""

_SCOPES = {
    "/metrics": Scope.METRICS,
    "/v1/synkti/nodes": Scope.FLEET,
    SNAPSHOT: Scope.FLEET,
    SNAPSHOT_EVENTS: Scope.FLEET,
    "/v1/synkti/drains": Scope.ADMIN,
}

_ENGINE_ROUTES = {
    "/version": _GET,
    "/v1/messages/count_tokens": _POST,
    **dict.fromkeys(sorted(OPTIONAL_ROUTES), _POST),
}
"""Routes that an engine answers, and their methods. An engine that does not serve a route responds 404."""

_METHODS = {**NODE_ROUTES, **_ENGINE_ROUTES, **{route.value: _POST for route in ApiRoute}}

_ID = r"[A-Za-z0-9][A-Za-z0-9_-]{0,255}"
_PATTERNS = (
    (re.compile(r"/v1/streams/[A-Za-z0-9_.-]{1,256}", re.ASCII), _GET),
    (re.compile(f"/v1/responses/{_ID}", re.ASCII), _GET),
    (re.compile(f"/v1/responses/{_ID}/cancel", re.ASCII), _POST),
)
"""Routes with an id in them. That of a stream is compared with the streams that there are."""

_PATTERN_PATHS = ("/v1/streams/{stream}", "/v1/responses/{response}", "/v1/responses/{response}/cancel")
"""The same as OpenAPI spells them."""

_RESPONSE_QUERY = re.compile(
    r"(?:stream|starting_after|include(?:\[\]|%5B%5D)?)=[\w.-]{1,128}", re.ASCII | re.IGNORECASE
)
"""What vLLM reads of the query of a stored response."""

ADMIN_NOT_FOUND_MESSAGE = "The admin listener has no route {path}; it has " + ", ".join(ADMIN_ROUTES) + "."


def not_found_message(path: str) -> str:
    """Return the message for a path that is no route, or an optional one that is not allowed."""
    if path in OPTIONAL_ROUTES:
        return f"The route {path} is not enabled; the fleet's operator can enable it (SYNKTI_ALLOWED_ROUTES)."
    return (
        f"There is no route {path[:200]}; the API is under /v1, and a node's health at /health (as vLLM's), /healthz "
        "(the process runs) and /readyz (it accepts requests). Metrics and drains are at the admin listener, "
        "SYNKTI_ADMIN_PORT."
    )


def allowed_methods(path: str, allowed: Collection[str] = ()) -> tuple[str, ...]:
    """Return the methods of a route, () where the route does not exist.

    path: as received, without the query.
    allowed: the optional routes that the operator allows.
    """
    known = _METHODS.get(path)
    if known is not None:
        return () if path in OPTIONAL_ROUTES and path not in allowed else known
    return next((methods for pattern, methods in _PATTERNS if pattern.fullmatch(path)), ())


def documented_routes(allowed: Collection[str]) -> Iterator[tuple[str, Collection[str]]]:
    """Yield each route of the client API and its methods, with {names} for ids, but for the page's files.

    allowed: as in `allowed_methods`.
    """
    documented = sorted(_METHODS.keys() - PAGE_FILES.keys())
    yield from ((path, methods) for path in documented if (methods := allowed_methods(path, allowed)))
    yield from ((path, methods) for path, (_, methods) in zip(_PATTERN_PATHS, _PATTERNS, strict=True))


def required_scope(path: str) -> Scope | None:
    """Return the scope that a route requires of a client's key, None for an open route."""
    return None if path in OPEN_ROUTES else _SCOPES.get(path, Scope.INFERENCE)


def is_engine_route(method: str, target: str) -> bool:
    """Return whether a peer may send such a request on to this node's engine. target: path and query."""
    return method in allowed_methods(raw_path(target), OPTIONAL_ROUTES)


def raw_path(target: str) -> str:
    """Return the path of a request's target as received: neither decoded nor normalized."""
    return target.partition("?")[0]


def engine_target(target: str) -> str:
    """Return the target that an engine receives: the route, and of a stored response also the query that it knows."""
    path, _, query = target.partition("?")
    if not query or path in _METHODS:
        return path
    kept = "&".join(pair for pair in query.split("&") if _RESPONSE_QUERY.fullmatch(pair))
    return f"{path}?{kept}" if kept else path


def without_trailing_slash(target: str, allowed: Collection[str] = ()) -> str | None:
    """Return the target to which vLLM's server redirects a path with a trailing slash; None for no redirect.

    target: path and query, as received.
    allowed: as for `allowed_methods`. Only a path that is a route behind it matches: `//host/` would redirect to
        another host.
    """
    path, mark, query = target.partition("?")
    shorter = path.rstrip("/")
    if shorter == path or not allowed_methods(shorter, allowed):
        return None
    return shorter + mark + query


def is_json(content_type: bytes) -> bool:
    """Return whether vLLM's generation routes parse this content type as JSON; they reject all others."""
    return content_type.partition(b";")[0].lower() == b"application/json"


def may_be_json(content_type: bytes) -> bool:
    """Return whether any parser might read this content type as JSON."""
    return b"json" in content_type.lower()


def audit_label(path: str) -> str:
    """Return a path's label in the audit log, from a bounded set: a path may have a resume token, or anything else."""
    if path.startswith(STREAMS):
        return STREAMS
    return path if path in _METHODS else "other"


def metric_label(path: str) -> str:
    """Return a path's label in metrics, from a bounded set."""
    return path if path in _METHODS and path not in NODE_ROUTES else "other"
