"""List the routes of the client API with their methods, and redirect paths with a trailing slash.

vLLM 0.32's routes have the same paths here. Its routes for operators (sleep, pause, collective_rpc, server_info,
start_profile, reset_prefix_cache, scale_elastic_ep) and for one engine alone (/invocations, /docs, /inference/v1,
kv_event_sources) are absent: each would act on one engine of the fleet, without authorization.
"""

from __future__ import annotations

from node_agent.core.access.caller import Scope
from node_agent.core.openai.generation_request import ApiRoute

STREAMS = "/v1/streams/"
API = "/v1/"

TOKENIZER_ROUTES = frozenset({"/tokenize", "/detokenize", "/v1/messages/count_tokens"})
"""Routes that only run the tokenizer, on the CPU of the engine's one API server."""

BATCH_ROUTE = "/v1/chat/completions/batch"

_GET, _POST = ("GET",), ("POST",)
NODE_ROUTES = {
    "/healthz": _GET,
    "/readyz": _GET,
    "/metrics": _GET,
    "/health": _GET,
    "/ping": ("GET", "POST"),
    "/load": _GET,
    "/v1/models": _GET,
    "/v1/synkti/nodes": _GET,
    "/v1/synkti/drains": _GET,
}
"""Routes that this node answers, and their methods."""

OPEN_ROUTES = frozenset({"/healthz", "/readyz", "/health", "/ping", "/load"})
"""Routes that need no key: a balancer, and this machine's own scripts, call them. They have no names and no content."""

_SCOPES = {"/metrics": Scope.METRICS, "/v1/synkti/nodes": Scope.FLEET, "/v1/synkti/drains": Scope.ADMIN}

_ENGINE_ROUTES = {
    "/version": _GET,
    **dict.fromkeys(
        (
            "/tokenize", "/detokenize", "/rerank", "/v1/rerank", "/v2/rerank", "/score", "/v1/score", "/pooling",
            "/classify", "/v1/embeddings", "/v2/embed", "/generative_scoring", "/v1/messages/count_tokens", BATCH_ROUTE,
            "/v1/audio/transcriptions", "/v1/audio/translations",
        ),
        _POST,
    ),
}  # fmt: skip
"""Routes that an engine answers, and their methods. An engine that does not serve a route responds 404."""

_METHODS = {**NODE_ROUTES, **_ENGINE_ROUTES, **{route.value: _POST for route in ApiRoute}}

NOT_FOUND_MESSAGE = (
    "There is no route {path}; the API is under /v1, and a node's health at /health (as vLLM's), /healthz (the process "
    "runs) and /readyz (it accepts requests)."
)


def allowed_methods(path: str) -> tuple[str, ...] | None:
    """Return the methods of a route, () where the route does not exist, None where only the engine can decide."""
    known = _METHODS.get(path)
    if known is not None:
        return known
    if path.startswith(STREAMS):
        return _GET
    return None if path.startswith(API) else ()


def required_scope(path: str) -> Scope | None:
    """Return the scope that a route requires of a client's key, None for an open route."""
    return None if path in OPEN_ROUTES else _SCOPES.get(path, Scope.INFERENCE)


def without_trailing_slash(target: str) -> str | None:
    """Return the target to which vLLM's server redirects a path with a trailing slash; None for no redirect.

    target: path and query, as received. Only paths under a known root match: `//host/` would redirect to another host.
    """
    path, mark, query = target.partition("?")
    shorter = path.rstrip("/")
    if shorter == path or not (shorter in _METHODS or (shorter + "/").startswith(API)) or shorter + "/" == API:
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
