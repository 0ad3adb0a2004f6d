"""A body is parsed as vLLM's server does, and an engine receives what was parsed."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.contract.errors import RequestRejected
from node_agent.core.openai.request_body import MAX_DEPTH, MAX_NONSTANDARD_BYTES, Body, read_body

REQUEST = {"model": "m", "prompt": "p\u00e9", "vllm_xargs": {"synkti_resume_ids": [1], "mine": 1}}
STRIPPED = {**REQUEST, "vllm_xargs": {"mine": 1}}
TEXT = json.dumps(REQUEST)
ENCODINGS: list[tuple[str, bytes]] = [
    ("as usual", TEXT.encode()),
    ("a byte order mark", b"\xef\xbb\xbf" + TEXT.encode()),
    *((name, TEXT.encode(name)) for name in ("utf-16", "utf-16-le", "utf-16-be", "utf-32")),
    ("escaped names", TEXT.replace("synkti", "\\u0073ynkti").encode()),
    ("escaped", TEXT.replace("vllm_xargs", "vllm\\u005fxargs").encode()),
]


@pytest.mark.parametrize(("name", "raw"), ENCODINGS, ids=[name for name, _ in ENCODINGS])
def test_no_synkti_argument_passes_in_any_encoding(name: str, raw: bytes) -> None:
    body = read_body(raw)
    assert body.is_standard
    assert orjson.loads(body.to_bytes()) == STRIPPED


@pytest.mark.parametrize(
    "value", [b"NaN", b"-Infinity", b"1e999", b'"\\ud800"', b'"\xed\xa0\x80"', b'{"a":["\\udc00"]}']
)
def test_values_that_orjson_cannot_write_are_written_as_the_engine_reads_them(value: bytes) -> None:
    raw = TEXT.encode()[:-1] + b',"top_p":' + value + b"}"
    body = read_body(raw)
    assert not body.is_standard
    read, right = json.loads(body.to_bytes()), json.loads(raw)
    assert repr(read["top_p"]) == repr(right["top_p"])
    assert read["vllm_xargs"] == {"mine": 1}


def test_synkti_arguments_are_removed_at_any_depth() -> None:
    inner: Any = REQUEST
    for _ in range(MAX_DEPTH + 50):
        inner = [{"a": inner}]
    assert b"synkti_" not in read_body(json.dumps(inner).encode()).to_bytes()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[1,]",
        b'{"a":1} x',
        b'{"a":"\xff"}',
        b"\x00",
        b'{"a":' + b"1" * 5_000 + b"e}",
        b"[" * 100_000,
        b'{"a":NaN,"b":"' + b"x" * MAX_NONSTANDARD_BYTES + b'"}',
    ],
    ids=range(9),
)
def test_invalid_json_is_refused_with_a_message(raw: bytes) -> None:
    with pytest.raises(RequestRejected) as refused:
        read_body(raw)
    assert refused.value.status == 400
    assert len(str(refused.value)) < 300


@given(st.binary(max_size=40))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    try:
        body = read_body(raw)
    except RequestRejected:
        return
    read, right = json.loads(body.to_bytes()), json.loads(raw)
    assert read == right or repr(read) == repr(right)  # NaN is not equal to itself


@pytest.mark.parametrize(
    ("value", "model"), [({"model": "m"}, "m"), ({"model": 5}, None), ({"model": ""}, None), ([], None)]
)
def test_only_a_text_names_a_model(value: Any, model: str | None) -> None:
    assert Body(value).model == model
