"""What a node publishes of the promise: what its agent's counters have grown by."""

from __future__ import annotations

import json
from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.contract import names
from node_agent.core.node.promise_metrics import LONGEST_S, PAUSES, Counts, Sample, metric_data, read_counts

BUCKETS = [(PAUSES, {"le": "0.1"}, 3.0), (PAUSES, {"le": "1.0"}, 5.0), (PAUSES, {"le": "+Inf"}, 6.0)]


def published(now: Counts, before: Counts) -> dict[str, object]:
    data = metric_data(2.0, now, before, "synkti")
    return {each["MetricName"]: each.get("Value", (each.get("Values"), each.get("Counts"))) for each in data}


def test_counts_of_all_labels_are_added_up_and_buckets_have_their_own() -> None:
    samples = [
        ("synkti_engine_requests", {}, 4.0),
        ("synkti_streams_broken_total", {"code": "engine_lost"}, 1.0),
        ("synkti_streams_broken_total", {"code": "no_ready_node"}, 2.0),
        ("synkti_streams_open", {}, 9.0),
        *BUCKETS,
    ]
    in_flight, counts = read_counts(samples)
    assert in_flight == 4.0
    assert counts == Counts({names.BROKEN_METRIC: 3.0}, {0.1: 3.0, 1.0: 2.0, LONGEST_S: 1.0})


def test_what_is_no_count_is_ignored() -> None:
    samples: list[Sample] = [("synkti_engine_requests", {}, nan), ("synkti_streams_broken_total", {}, inf)]
    samples += [("synkti_unreplicated_events_total", {}, -1.0), (PAUSES, {}, 1.0), (PAUSES, {"le": "soon"}, 1.0)]
    assert read_counts(samples) == (None, Counts())


def test_the_growth_is_published_and_nothing_where_nothing_grew() -> None:
    before = Counts({names.BROKEN_METRIC: 3.0, names.CONTINUED_METRIC: 5.0}, {0.1: 3.0, 1.0: 2.0})
    now = Counts({names.BROKEN_METRIC: 3.0, names.CONTINUED_METRIC: 7.0}, {0.1: 3.0, 1.0: 4.0})
    assert published(now, before) == {
        names.IN_FLIGHT_METRIC: 2.0,
        names.CONTINUED_METRIC: 2.0,
        names.PAUSE_METRIC: ([1.0], [2.0]),
    }
    assert set(published(now, now)) == {names.IN_FLIGHT_METRIC}


def test_an_agent_that_restarted_counts_from_zero() -> None:
    before, now = Counts({names.BROKEN_METRIC: 3.0}, {0.1: 3.0}), Counts({names.BROKEN_METRIC: 1.0}, {0.1: 2.0})
    assert published(now, before)[names.BROKEN_METRIC] == 1.0
    assert published(now, before)[names.PAUSE_METRIC] == ([0.1], [2.0])


def test_the_load_has_the_groups_dimension_and_the_promise_the_clusters() -> None:
    load, broken = metric_data(2.0, Counts({names.BROKEN_METRIC: 1.0}), Counts(), "chat")
    assert load["Dimensions"] == [{"Name": "AutoScalingGroupName", "Value": "chat-fleet"}]
    assert broken["Dimensions"] == [{"Name": "service", "Value": "synkti"}, {"Name": "cluster", "Value": "chat"}]


@given(st.dictionaries(st.text(), st.floats(0, 1e9)), st.dictionaries(st.floats(0.001, 60), st.floats(0, 1e9)))
def test_counts_survive_their_file(totals: dict[str, float], pauses: dict[float, float]) -> None:
    counts = Counts(totals, pauses)
    assert Counts.from_json(json.loads(json.dumps(counts.to_json()))) == counts


@pytest.mark.parametrize("value", [None, [], {}, {"totals": 1, "pauses": {}}, {"totals": {}, "pauses": {"x": 1}}])
def test_a_damaged_file_is_no_count(value: object) -> None:
    with pytest.raises((ValueError, TypeError, KeyError, AttributeError)):
        Counts.from_json(value)
