"""Test the bounds on a document before it is parsed."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.core.http.document_bounds import DocumentBounds

FEW = DocumentBounds(values=20, containers=10, strings=15)
values = st.recursive(
    st.none() | st.integers(-9, 9) | st.text('a,[{"\\', max_size=6),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text('b:,"', max_size=3), inner, max_size=4),
    max_leaves=40,
)


def counted(value: Any) -> tuple[int, int, int]:
    """Count commas outside of strings; arrays and objects; strings and keys."""
    if isinstance(value, str):
        return 0, 0, 1
    if not isinstance(value, (list, dict)):
        return 0, 0, 0
    inner = [counted(each) for each in (value.values() if isinstance(value, dict) else value)]
    commas, nested, texts = (sum(each) for each in zip(*inner, strict=True)) if inner else (0, 0, 0)
    keys = len(value) if isinstance(value, dict) else 0
    return commas + max(0, len(value) - 1), nested + 1, texts + keys


@given(values)
def test_fits_counts_exactly_and_a_short_document_fits(value: Any) -> None:
    raw = orjson.dumps(value)
    commas, nested, texts = counted(value)
    fits = commas < FEW.values and nested <= FEW.containers and texts <= FEW.strings
    assert FEW.fits(raw) == fits
    assert fits or not FEW.passes_quick_check(raw)


@given(st.binary(max_size=300))
def test_any_bytes_are_counted_without_an_error(raw: bytes) -> None:
    assert FEW.fits(raw) in (True, False)
    if FEW.passes_quick_check(raw) and b"\0" not in raw:
        assert FEW.fits(raw)


@pytest.mark.parametrize(
    "unit", [b"[],", b"{},", b'"",', b'{"a":1},', b"1,", b"[[[[[[", b'"a":"', b'\\",'], ids=lambda unit: unit.decode()
)
def test_documents_that_would_stop_a_node_do_not_fit(unit: bytes) -> None:
    raw = b'{"x":[' + unit * (16 * 1024 * 1024 // len(unit))
    assert not DocumentBounds().passes_quick_check(raw) or raw.count(b",") < DocumentBounds().values


@pytest.mark.parametrize("unit", [b"[],", b"{},", b'"",', b'{"a":1},', b"1,"], ids=lambda unit: unit.decode())
def test_a_document_that_is_counted_exactly_does_not_fit_either(unit: bytes) -> None:
    assert not DocumentBounds().fits(b'{"x":[' + unit * (16 * 1024 * 1024 // len(unit)) + b"0]}")


def test_ordinary_requests_fit() -> None:
    bounds = DocumentBounds()
    ids = orjson.dumps({"prompt": list(range(900_000))})
    image = orjson.dumps({"messages": [{"content": [{"image_url": {"url": "A" * 15_000_000}}]}]})
    code = orjson.dumps({"prompt": 'if (a["b"]) { f(1, 2); }\n' * 500_000})
    assert bounds.passes_quick_check(ids)
    assert bounds.passes_quick_check(image)
    assert not bounds.passes_quick_check(code)
    assert bounds.fits(code)


def test_a_document_that_is_not_utf_8_does_not_fit() -> None:
    assert not FEW.fits('{"a": "b"}'.encode("utf-16"))
