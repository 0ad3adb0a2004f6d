"""Every request that has harmed inference servers is refused before an engine, with its field and its reason."""

from __future__ import annotations

import json

import pytest

from node_agent.contract.errors import RequestRejected
from node_agent.core.openai.routes import allowed_methods, raw_path
from node_agent.core.policy.control_tokens import ControlTokens
from node_agent.core.policy.request_policy import RequestPolicy
from tests.refused_requests import CONTROL_TOKEN, REFUSED, ROUTES, RefusedRequest

CONTEXT = 4_096
BODIES = [request for request in REFUSED if request not in ROUTES]


def apply(policy: RequestPolicy, request: RefusedRequest) -> None:
    policy.apply(request.path, request.body, len(json.dumps(request.body)), CONTEXT)


def assert_refused(policy: RequestPolicy, request: RefusedRequest) -> None:
    with pytest.raises(RequestRejected) as refused:
        apply(policy, request)
    error = refused.value
    assert (error.status, error.code, error.param) == (request.status, request.code, request.param)
    assert len(str(error)) < 600, "an error does not repeat what was sent"


@pytest.mark.parametrize("request_", BODIES, ids=lambda request: request.name)
def test_a_body_of_the_list_is_refused_with_its_field(request_: RefusedRequest) -> None:
    assert_refused(RequestPolicy(), request_)


@pytest.mark.parametrize(
    "request_", [each for each in ROUTES if each.code == "unknown_route"], ids=lambda each: each.name
)
def test_a_route_of_the_list_does_not_exist(request_: RefusedRequest) -> None:
    target = request_.to_bytes().split(b" ", 2)[1].decode()
    assert allowed_methods(raw_path(target)) == ()


def test_a_control_token_is_refused_where_the_model_has_it_and_is_a_text_elsewhere() -> None:
    tokens = ControlTokens(frozenset({"<|image_pad|>"}), frozenset({7}))
    assert_refused(RequestPolicy(tokens=tokens), CONTROL_TOKEN)
    apply(RequestPolicy(), CONTROL_TOKEN)


def test_the_names_are_unique() -> None:
    assert len({request.name for request in REFUSED}) == len(REFUSED)
