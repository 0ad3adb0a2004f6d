"""The routes of the client API, and the origins that may call them from a browser."""

from __future__ import annotations

import pytest

from node_agent.contract.client_requests import OPTIONAL_ROUTES
from node_agent.core.access.caller import Scope
from node_agent.core.http.cors import Origins
from node_agent.core.openai.routes import (
    NODE_ROUTES,
    OPEN_ROUTES,
    allowed_methods,
    audit_label,
    engine_target,
    is_engine_route,
    metric_label,
    not_found_message,
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
        ("/v1/messages/count_tokens", ("POST",)),
        ("/v1/streams/x", ("GET",)),
        ("/v1/streams/", ()),
        ("/v1/responses/resp_1", ("GET",)),
        ("/v1/responses/resp_1/cancel", ("POST",)),
        ("/v1/responses/resp_1/input_items", ()),
        ("/v1/responses/", ()),
        ("/v1/responses/..", ()),
        ("/v1/responses/%2e%2e", ()),
        ("/v1/responses/resp_1\n", ()),
        ("/v1/anything", ()),
        ("/v1/models/m", ()),
        ("/v1/load_lora_adapter", ()),
        ("/v1//models", ()),
        ("//v1/models", ()),
        ("/v1/chat%2Fcompletions", ()),
        ("/v1/chat/completions;x", ()),
        ("/v1/chat/completions/", ()),
        ("/V1/chat/completions", ()),
        ("http://x/health", ()),
        ("/rerank", ()),
        ("/tokenize", ()),
        ("/sleep", ()),
        ("/inference/v1/generate", ()),
        ("/invocations", ()),
        ("/collective_rpc", ()),
        ("/", ()),
        ("", ()),
    ],
)
def test_a_route_has_its_methods_and_no_other_spelling_is_one(path: str, methods: tuple[str, ...]) -> None:
    assert allowed_methods(path) == methods


@pytest.mark.parametrize("path", sorted(OPTIONAL_ROUTES))
def test_an_optional_route_exists_only_where_it_is_allowed(path: str) -> None:
    assert allowed_methods(path) == ()
    assert "SYNKTI_ALLOWED_ROUTES" in not_found_message(path)
    assert allowed_methods(path, [path]) == ("POST",)
    assert allowed_methods(path, OPTIONAL_ROUTES - {path}) == ()


@pytest.mark.parametrize(
    ("method", "target", "is_one"),
    [
        ("POST", "/v1/completions", True), ("POST", "/tokenize", True), ("GET", "/v1/models", True),
        ("GET", "/v1/responses/resp_1?stream=true", True), ("POST", "/sleep", False), ("DELETE", "/v1/models", False),
        ("POST", "/v1/load_lora_adapter", False), ("POST", "", False), ("POST", "v1/completions", False),
    ],
)  # fmt: skip
def test_a_peer_reaches_the_same_routes_of_an_engine(method: str, target: str, *, is_one: bool) -> None:
    assert is_engine_route(method, target) is is_one


@pytest.mark.parametrize(
    ("target", "received"),
    [
        ("/v1/messages?beta=true", "/v1/messages"),
        ("/v1/chat/completions?x=/../sleep", "/v1/chat/completions"),
        ("/v1/responses/resp_1", "/v1/responses/resp_1"),
        ("/v1/responses/resp_1?stream=true&starting_after=5&x=1", "/v1/responses/resp_1?stream=true&starting_after=5"),
        ("/v1/responses/resp_1?stream=a%20b&include[]=x", "/v1/responses/resp_1?include[]=x"),
        ("/v1/responses/resp_1?", "/v1/responses/resp_1"),
    ],
)
def test_an_engine_receives_the_route_and_the_query_that_it_knows(target: str, received: str) -> None:
    assert engine_target(target) == received


@pytest.mark.parametrize(
    ("target", "shorter"),
    [
        ("/health/", "/health"),
        ("/v1/models/?a=b/", "/v1/models?a=b/"),
        ("/v1/chat/completions//", "/v1/chat/completions"),
        ("/v1/responses/resp_1/", "/v1/responses/resp_1"),
        ("/v1/anything//", None),
        ("/tokenize/", None),
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
