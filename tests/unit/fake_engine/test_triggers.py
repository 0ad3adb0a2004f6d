"""Requests that the fake engine fails at."""

from __future__ import annotations

from typing import Any

import pytest

from local.fake_engine.triggers import (
    INTERNAL_ERROR,
    RequestFailure,
    Trigger,
    generation_error,
    matching_failure,
    parse_trigger,
)


def test_a_trigger_is_a_text_and_the_end_of_its_requests() -> None:
    triggers = [parse_trigger("a=b=dies"), parse_trigger("boom=error-500")]
    assert triggers == [Trigger("a=b", RequestFailure.DIES), Trigger("boom", RequestFailure.ERROR_500)]
    assert matching_failure(triggers, b'{"prompt":"so a=b it is"}') is RequestFailure.DIES
    assert matching_failure(triggers, b'{"prompt":"boom"}') is RequestFailure.ERROR_500
    assert matching_failure(triggers, b"{}") is None


@pytest.mark.parametrize("given", ["", "=dies", "text", "text=", "text=unheard-of"])
def test_an_invalid_trigger_is_refused(given: str) -> None:
    with pytest.raises(ValueError, match="not"):
        parse_trigger(given)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"structured_outputs": {"grammar": "root ::= "}}, 500),
        ({"structured_outputs": {"json": {"$ref": "#"}}}, 500),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"$ref": "#"}}}}, 500),
        ({"structured_outputs": {"regex": "("}}, 400),
        ({"logit_bias": {"99999999": 1}}, 400),
    ],
)
def test_the_fake_engine_has_vllms_own_faults(body: dict[str, Any], status: int) -> None:
    fault = generation_error(body)
    assert fault is not None
    assert fault.status == status
    assert (fault == INTERNAL_ERROR) is (status == 500)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"structured_outputs": None, "response_format": {"type": "text"}, "logit_bias": None},
        {"structured_outputs": {"grammar": 'root ::= "a"', "regex": "a+"}, "logit_bias": {"1": 2}},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}}},
    ],
)
def test_other_requests_have_no_fault(body: dict[str, Any]) -> None:
    assert generation_error(body) is None
