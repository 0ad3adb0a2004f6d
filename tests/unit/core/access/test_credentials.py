"""Test how a request's key is read, and each way in which it can be wrong."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from node_agent.contract.errors import RequestRejected
from node_agent.core.access.caller import Caller, Scope
from node_agent.core.access.credentials import check_scope, read_key, reject
from node_agent.core.access.key_ring import KeyRefusal
from tests.unit.core.access.keys import key_number

ONE, TWO = key_number(1), key_number(2)
CHAT = "/v1/chat/completions"


@pytest.mark.parametrize(
    "headers",
    [
        {b"authorization": b"Bearer " + ONE.text},
        {b"authorization": b"bearer  " + ONE.text + b" "},
        {b"x-api-key": ONE.text},
        {b"x-api-key": ONE.text, b"authorization": b""},
        {b"x-api-key": ONE.text, b"authorization": b"Bearer " + ONE.text},
    ],
)
def test_openais_and_anthropics_ways_are_read(headers: Mapping[bytes, bytes]) -> None:
    assert read_key(headers, CHAT + "?beta=true&stream=1") == ONE


@pytest.mark.parametrize(
    ("headers", "status", "code", "message"),
    [
        ({}, 401, "invalid_api_key", "has no API key"),
        ({b"authorization": b""}, 401, "invalid_api_key", "has no API key"),
        ({b"authorization": b"Basic dXNlcjpwdw=="}, 401, "invalid_api_key", "another scheme"),
        ({b"authorization": ONE.text}, 401, "invalid_api_key", "another scheme"),
        ({b"authorization": b"Bearer"}, 401, "invalid_api_key", "look like sk-synkti-"),
        ({b"authorization": b"Bearer sk-proj-abc"}, 401, "invalid_api_key", "look like sk-synkti-"),
        ({b"x-api-key": b"\xff\x00"}, 401, "invalid_api_key", "look like sk-synkti-"),
        ({b"x-api-key": ONE.text + b", " + ONE.text}, 400, "repeated_api_key", "x-api-key more than once"),
        ({b"authorization": b"Bearer a, Bearer b"}, 400, "repeated_api_key", "authorization more than once"),
        ({b"authorization": b"Bearer " + ONE.text, b"x-api-key": TWO.text}, 400, "two_api_keys", "two different"),
    ],
)
def test_each_wrong_way_has_its_own_message(
    headers: Mapping[bytes, bytes], status: int, code: str, message: str
) -> None:
    with pytest.raises(RequestRejected, match=message) as rejected:
        read_key(headers, CHAT)
    assert (rejected.value.status, rejected.value.code) == (status, code)
    assert ONE.text[-64:].decode() not in str(rejected.value)


@pytest.mark.parametrize(
    "query",
    [
        "api_key=abc",
        "a=b&API-KEY=abc",
        "key=" + ONE.text.decode(),
        "access_token=x",
        "q=" + ONE.text.decode(),
        "api%5Fkey=abc",
        "q=sk%2Dsynkti%2D" + "0" * 12,
    ],
)
def test_a_key_in_a_url_is_refused_even_beside_a_good_one(query: str) -> None:
    with pytest.raises(RequestRejected, match="would be logged") as rejected:
        read_key({b"x-api-key": ONE.text}, f"{CHAT}?{query}")
    assert (rejected.value.status, rejected.value.code) == (400, "api_key_in_url")


def test_each_refusal_of_a_key_is_openais_invalid_api_key_with_a_message_of_its_own() -> None:
    errors = []
    for why in KeyRefusal:
        with pytest.raises(RequestRejected) as rejected:
            reject(why)
        errors.append(rejected.value)
    assert {(error.status, error.code) for error in errors} == {(401, "invalid_api_key")}
    assert len({str(error) for error in errors}) == len(KeyRefusal)


def test_a_missing_scope_is_named_with_those_that_there_are() -> None:
    caller = Caller("0" * 12, "chat", frozenset({Scope.INFERENCE, Scope.FLEET}))
    check_scope(caller, Scope.FLEET)
    with pytest.raises(RequestRejected, match="has not the scope admin; it has: inference, fleet") as rejected:
        check_scope(caller, Scope.ADMIN)
    assert rejected.value.status == 403
