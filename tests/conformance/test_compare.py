"""The comparison of two answers: differences of a computation's last digits are none, others are."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.conformance.compare import HttpAnswer, differences


def streamed(*events: dict[str, Any]) -> HttpAnswer:
    body = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events)
    return HttpAnswer(200, {"content-type": "text/event-stream"}, body.encode())


def whole(document: Any) -> HttpAnswer:
    return HttpAnswer(200, {"content-type": "application/json"}, json.dumps(document).encode())


@pytest.mark.parametrize("form", [streamed, whole])
def test_logprobs_at_both_sides_of_a_boundary_are_equal(form: Any) -> None:
    one, other = ({"type": "done", "logprobs": [{"logprob": value}]} for value in (-1.2344999, -1.2345001))
    assert differences(form(one), form(other)) == {}


@pytest.mark.parametrize("form", [streamed, whole])
@pytest.mark.parametrize("value", [-1.25, 0, None, "-1.2345"])
def test_another_logprob_is_a_difference(form: Any, value: Any) -> None:
    one, other = ({"type": "done", "logprobs": [{"logprob": each}]} for each in (-1.2345, value))
    assert differences(form(one), form(other))


def test_final_events_in_another_order_are_equal() -> None:
    events: list[dict[str, Any]] = [
        {"type": "done", "index": index, "logprob": value} for index, value in ((0, -3.1), (1, -2.2))
    ]
    changed = [{**event, "logprob": event["logprob"] + 0.0001} for event in reversed(events)]
    assert differences(streamed(*events), streamed(*changed)) == {}
