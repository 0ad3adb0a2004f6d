"""The benchmark of the policy measures requests that it accepts."""

from __future__ import annotations

import json

import pytest

from bench import request_policy
from bench.request_policy import KINDS, POLICIES, measure, parse


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_request_passes_each_policy(kind: str) -> None:
    route, body = KINDS[kind]
    for policy in (None, *POLICIES.values()):
        parse(route, json.dumps(body).encode(), policy)


def test_a_cost_is_the_difference_of_both_timings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_policy, "time_us", lambda _route, _raw, policy: 5.0 if policy is None else 8.0)
    route, body = KINDS["a chat"]
    cost = measure(route, json.dumps(body).encode(), POLICIES["defaults"], 3)
    assert (cost.added_us, cost.parsing_us) == (3.0, 5.0)
