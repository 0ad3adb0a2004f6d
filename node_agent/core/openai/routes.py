"""The routes of the client API: which there are, with which methods, and where a path with one slash too many leads.

What vLLM 0.32 serves is here under the same paths. Not here are its routes for operators (sleep, pause, collective_rpc,
server_info, start_profile, reset_prefix_cache, scale_elastic_ep) and for one engine alone (/invocations, /docs,
/inference/v1, kv_event_sources): each would act on one engine of the fleet, and on no one's word.
"""

from __future__ import annotations

from node_agent.core.openai.generation_request import ApiRoute

STREAMS = "/v1/streams/"
API = "/v1/"

TOKENIZER_ROUTES = frozenset({"/tokenize", "/detokenize", "/v1/messages/count_tokens"})
"""Routes whose whole work is a tokenizer's, on the CPU of the engine's one API server."""

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
"""Answered by this node, and the methods that they take."""

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
"""Answered by an engine, and the methods that it takes. An engine that does not serve a route says so (404)."""

_METHODS = {**NODE_ROUTES, **_ENGINE_ROUTES, **{kind.value: _POST for kind in ApiRoute}}

NOT_FOUND_MESSAGE = (
    "There is no route {path}; the API is under /v1, and a node's health at /health (as vLLM's), /healthz (the process "
    "lives) and /readyz (it takes requests)."
)


def allowed_methods(path: str) -> tuple[str, ...] | None:
    """The methods of a route, () where there is no such route, None where only an engine knows."""
    known = _METHODS.get(path)
    if known is not None:
        return known
    if path.startswith(STREAMS):
        return _GET
    return None if path.startswith(API) else ()


def without_trailing_slash(target: str) -> str | None:
    """Where vLLM's server sends a client whose path ends with a slash; None where the path is none of that kind.

    target: path and query, as they came. Only what is under a known root: `//host/` would lead away.
    """
    path, mark, query = target.partition("?")
    shorter = path.rstrip("/")
    if shorter == path or not (shorter in _METHODS or (shorter + "/").startswith(API)) or shorter + "/" == API:
        return None
    return shorter + mark + query


def is_json(content_type: bytes) -> bool:
    """Whether a body of this type is read as JSON by vLLM's routes that generate; they refuse all others."""
    return content_type.partition(b";")[0].lower() == b"application/json"


def may_be_json(content_type: bytes) -> bool:
    """Whether any reader might take a body of this type for JSON."""
    return b"json" in content_type.lower()


def metric_label(path: str) -> str:
    """How a path is called in metrics: a bounded number of names."""
    return path if path in _METHODS and path not in NODE_ROUTES else "other"
