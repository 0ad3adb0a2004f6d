"""Test what counts as one request, whoever sends it and in whatever form."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.core.openai.request_digest import request_digest

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "the end"}], "max_tokens": 5}


@pytest.mark.parametrize(
    "same",
    [
        {**CHAT, "stream": True},
        {**CHAT, "stream": True, "stream_options": {"include_usage": True}, "return_token_ids": True},
        {**CHAT, "request_id": "r", "user": "u", "metadata": {"a": "b"}, "priority": 3, "cache_salt": "s"},
        dict(reversed(CHAT.items())),
        {**CHAT, "seed": None, "stop": None},
        {**CHAT, "vllm_xargs": {"synkti_apart": 1}},
        {**CHAT, "messages": [{"role": "user", "content": " the\n\tend  "}]},
    ],
    ids=["stream", "usage", "names", "order", "nulls", "own", "white space"],
)
def test_the_same_request_has_the_same_content(same: dict[str, Any]) -> None:
    raw = orjson.dumps(CHAT)
    assert request_digest(raw) == request_digest(CHAT) == request_digest(orjson.dumps(same)) == request_digest(same)
    assert request_digest(orjson.dumps(same, option=orjson.OPT_INDENT_2)) == request_digest(raw)


@pytest.mark.parametrize("more", [{"model": "n"}, {"seed": 1}, {"messages": []}, {"vllm_xargs": {"a": 1}}])
def test_another_request_has_another_content(more: dict[str, Any]) -> None:
    assert request_digest({**CHAT, **more}) != request_digest(CHAT)


def test_a_form_has_the_same_content_with_any_separator() -> None:
    form = b'--%b\r\ncontent-disposition: form-data; name="file"\r\n\r\nabc\r\n--%b--\r\n'
    assert request_digest(form % (b"x1", b"x1")) == request_digest(form % (b"zzz", b"zzz"))
    assert request_digest(form % (b"x1", b"x1")) != request_digest(b"abc")


@given(st.binary(max_size=200))
def test_any_body_has_a_content_or_none(body: bytes) -> None:
    found = request_digest(body)
    assert found is None if not body else found is not None and len(found) == 16


def test_a_body_of_any_depth_has_a_content() -> None:
    deep = b'{"a":' + b"[" * 900 + b"]" * 900 + b"}"
    assert request_digest(deep) is not None
    assert request_digest(deep) == request_digest(deep.replace(b"[[", b"[ ["))
