"""Test how engines' errors are read, from an answer's body or a stream's event."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.core.failure.attribution import classify_event
from node_agent.core.failure.error_body import (
    ENGINE_DEAD,
    BodyKind,
    EngineError,
    classify_body,
    parse_error,
    reports_dead_engine,
)

WORDS = st.text(alphabet=st.characters(codec="utf-8"), max_size=20)
JSON = st.recursive(st.none() | WORDS, lambda inner: st.lists(inner) | st.dictionaries(WORDS, inner))
NO_MODEL = b'{"error":{"message":"The model `x` does not exist.","type":"NotFoundError","param":"model"}}'
DEAD = f"{ENGINE_DEAD}. See stack trace (above) for the root cause."


@given(st.binary(max_size=300) | JSON.map(lambda value: orjson.dumps({"error": value})))
def test_any_body_is_classified(body: bytes) -> None:
    assert classify_body(body, has_model=True) in BodyKind
    assert classify_event(body).reason
    assert not reports_dead_engine(body) or ENGINE_DEAD.encode() in body


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"error":{"message":"no","type":"BadRequestError","param":null,"code":400}}', BodyKind.ERROR),
        (b'{"type":"error","error":{"type":"BadRequestError","message":"no"}}', BodyKind.ERROR),
        (b'{"detail":"Not Found"}', BodyKind.OTHER),
        (b"Internal Server Error", BodyKind.OTHER),
        (b"", BodyKind.OTHER),
        (b"[]", BodyKind.OTHER),
        (b'{"error":"Unauthorized"}', BodyKind.OTHER),
        (NO_MODEL, BodyKind.NO_SUCH_MODEL),
        (orjson.dumps({"error": {"message": DEAD}}), BodyKind.ENGINE_DEAD),
        (orjson.dumps({"choices": [{"text": DEAD}]}), BodyKind.OTHER),
    ],
)
def test_a_body_is_classified_by_its_form(body: bytes, kind: BodyKind) -> None:
    assert classify_body(body, has_model=True) is kind


def test_a_missing_model_is_an_error_if_the_request_names_none() -> None:
    assert classify_body(NO_MODEL, has_model=False) is BodyKind.ERROR


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ({"message": "no", "code": 400}, EngineError("no", is_about_model=False, status=400)),
        ({"message": "no", "code": 399}, EngineError("no", is_about_model=False, status=None)),
        ({"message": "no", "code": "400"}, EngineError("no", is_about_model=False, status=None)),
        ({"message": "no", "param": "model"}, EngineError("no", is_about_model=True, status=None)),
        ({"message": "The model `x` is not here."}, EngineError("The model `x` is not here.", True, None)),
        ({"message": 7}, None),
        ("no", None),
    ],
)
def test_an_error_has_a_text_and_perhaps_a_status(error: object, expected: EngineError | None) -> None:
    assert parse_error(orjson.dumps({"error": error})) == expected
    assert parse_error(orjson.dumps({"type": "response.failed", "response": {"error": error}})) == expected


def test_a_body_of_more_than_a_mebibyte_is_not_read() -> None:
    body = orjson.dumps({"error": {"message": "x" * 1024 * 1024}})
    assert parse_error(body) is None
    assert classify_body(body, has_model=True) is BodyKind.OTHER
