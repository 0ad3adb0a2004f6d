"""The top-level fields of requests: passed, guarded, unknown."""

from __future__ import annotations

from typing import Any

import pytest

from node_agent.contract.client_requests import GUARDED_FIELDS, OPTIONAL_ROUTES, is_field_name
from node_agent.contract.errors import RequestRejected
from node_agent.core.openai.generation_request import ApiRoute
from node_agent.core.policy.fields import PASSED, FieldRules

CHAT = "/v1/chat/completions"
USUAL: dict[str, Any] = {"model": "m", "messages": [], "temperature": 0.5, "max_tokens": 5, "stream": True}


def test_a_usual_request_is_the_same_object() -> None:
    assert FieldRules().apply(CHAT, USUAL) is USUAL


def test_an_unknown_field_is_left_out_and_the_request_stays_as_it_is() -> None:
    body = {**USUAL, "store": True, "a_field_of_tomorrow": {"run": "this"}}
    assert FieldRules().apply(CHAT, body) == USUAL
    assert "store" in body


@pytest.mark.parametrize("path", sorted(PASSED))
@pytest.mark.parametrize("name", sorted(name for name in GUARDED_FIELDS if "." not in name))
def test_a_guarded_field_is_refused_by_name_on_every_route_and_passes_where_it_is_allowed(path: str, name: str) -> None:
    if name in PASSED[path]:
        return  # `documents` of a score is its text
    with pytest.raises(RequestRejected) as refused:
        FieldRules().apply(path, {"model": "m", name: [1]})
    assert (refused.value.status, refused.value.code, refused.value.param) == (400, "field_not_allowed", name)
    assert f"SYNKTI_ALLOWED_FIELDS={name}" in str(refused.value)
    assert FieldRules([name]).apply(path, {"model": "m", name: [1]})[name] == [1]


@pytest.mark.parametrize("value", [None, False])
def test_a_guarded_field_that_requests_nothing_is_left_out(value: object) -> None:
    assert FieldRules().apply(CHAT, {**USUAL, "use_beam_search": value}) == USUAL


def test_one_member_of_an_object_can_be_allowed() -> None:
    rules = FieldRules(["chat_template_kwargs.enable_thinking"])
    body = {**USUAL, "chat_template_kwargs": {"enable_thinking": False}}
    assert rules.apply(CHAT, body) == body
    for other in ({"enable_thinking": False, "tokenize": True}, {"chat_template": "x"}):
        with pytest.raises(RequestRejected, match=r"chat_template_kwargs\.(tokenize|chat_template) is not allowed"):
            rules.apply(CHAT, {**USUAL, "chat_template_kwargs": other})
    with pytest.raises(RequestRejected):
        rules.apply(CHAT, {**USUAL, "chat_template_kwargs": "enable_thinking"})


def test_the_whole_object_can_be_allowed() -> None:
    body = {**USUAL, "vllm_xargs": {"mine": 1}}
    assert FieldRules(["vllm_xargs"]).apply(CHAT, body) is body


@pytest.mark.parametrize(
    "name", ["", "chat_template_kwargs.", "chat_template_kwargs.a b", "messages", "priority.x", "x"]
)
def test_only_guarded_fields_have_names_to_allow(name: str) -> None:
    assert not is_field_name(name)


def test_every_route_with_a_body_has_its_fields() -> None:
    assert set(PASSED) == {*OPTIONAL_ROUTES, "/v1/messages/count_tokens", *(route.value for route in ApiRoute)}
    assert not any("." in name or " " in name for names in PASSED.values() for name in names)
