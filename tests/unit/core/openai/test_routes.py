"""The routes of the client API, and the origins that may call them from a browser."""

from __future__ import annotations

import pytest

from node_agent.core.access.caller import Scope
from node_agent.core.http.cors import Origins
from node_agent.core.openai.routes import (
    NODE_ROUTES,
    OPEN_ROUTES,
    allowed_methods,
    audit_label,
    metric_label,
    required_scope,
    without_trailing_slash,
)

PAGE = {b"origin": b"https://chat.example.com"}
PREFLIGHT = PAGE | {b"access-control-request-method": b"POST", b"access-control-request-headers": b"authorization"}


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/health", ("GET",)),
        ("/ping", ("GET", "POST")),
        ("/v1/chat/completions", ("POST",)),
        ("/rerank", ("POST",)),
        ("/v1/streams/x", ("GET",)),
        ("/v1/responses/resp_1", None),
        ("/v1/anything", None),
        ("/sleep", ()),
        ("/inference/v1/generate", ()),
        ("/collective_rpc", ()),
        ("/", ()),
    ],
)
def test_a_route_has_its_methods(path: str, methods: tuple[str, ...] | None) -> None:
    assert allowed_methods(path) == methods


@pytest.mark.parametrize(
    ("target", "shorter"),
    [
        ("/health/", "/health"),
        ("/v1/models/?a=b/", "/v1/models?a=b/"),
        ("/v1/anything//", "/v1/anything"),
        ("/v1/models", None),
        ("/v1/", None),
        ("/", None),
        ("//evil.example/", None),
        ("//evil.example/v1/", None),
        ("/sleep/", None),
    ],
)
def test_a_slash_too_many_leads_to_a_route_of_ours_and_nowhere_else(target: str, shorter: str | None) -> None:
    assert without_trailing_slash(target) == shorter


@pytest.mark.parametrize(
    ("path", "scope"),
    [
        ("/health", None),
        ("/healthz", None),
        ("/readyz", None),
        ("/ping", None),
        ("/load", None),
        ("/metrics", Scope.METRICS),
        ("/v1/synkti/nodes", Scope.FLEET),
        ("/v1/synkti/drains", Scope.ADMIN),
        ("/v1/chat/completions", Scope.INFERENCE),
        ("/v1/messages", Scope.INFERENCE),
        ("/v1/streams/x", Scope.INFERENCE),
        ("/v1/models", Scope.INFERENCE),
        ("/version", Scope.INFERENCE),
        ("/tokenize", Scope.INFERENCE),
        ("/v1/anything", Scope.INFERENCE),
        ("/health/x", Scope.INFERENCE),
    ],
)
def test_a_route_requires_its_scope(path: str, scope: Scope | None) -> None:
    assert required_scope(path) == scope


def test_every_open_route_is_the_nodes_own() -> None:
    assert set(NODE_ROUTES) >= OPEN_ROUTES


def test_names_in_the_audit_log_are_few() -> None:
    assert audit_label("/v1/streams/" + "5" * 56) == "/v1/streams/"
    assert audit_label("/v1/chat/completions") == "/v1/chat/completions"
    assert audit_label("/v1/sk-synkti-x") == audit_label("/") == "other"


def test_names_in_metrics_are_few() -> None:
    assert metric_label("/v1/chat/completions") == "/v1/chat/completions"
    assert metric_label("/v1/anything") == metric_label("/health") == "other"


def test_by_default_no_page_may_call() -> None:
    origins = Origins()
    assert not origins
    assert origins.headers(PAGE) == []
    assert origins.preflight(PREFLIGHT) is None


def test_a_page_of_an_allowed_origin_may_and_no_other() -> None:
    origins = Origins(["https://chat.example.com"])
    assert dict(origins.headers(PAGE))[b"access-control-allow-origin"] == b"https://chat.example.com"
    assert (b"vary", b"origin") in origins.headers(PAGE)
    assert dict(origins.preflight(PREFLIGHT) or ())[b"access-control-allow-headers"] == b"authorization"
    assert origins.headers({b"origin": b"https://evil.example"}) == []
    assert origins.preflight(PREFLIGHT | {b"origin": b"https://evil.example"}) is None
    assert origins.headers({}) == []
    assert origins.preflight(PAGE) is None, "an OPTIONS request that is no preflight"


def test_any_origin_is_allowed_where_that_is_configured() -> None:
    headers = Origins(["*"]).headers({b"origin": b"null"})
    assert (b"access-control-allow-origin", b"*") in headers
    assert b"x-synkti-stream" in dict(headers)[b"access-control-expose-headers"]
