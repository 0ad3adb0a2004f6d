"""Test the parser of vLLM's metrics."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.core.engine.metrics import EngineMetrics, parse_metrics

TEXT = b"""# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 7.0
vllm:num_requests_waiting{engine="0",model_name="m"} 2.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="capacity"} 99.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
"""


def test_a_metric_is_found_by_its_whole_name() -> None:
    assert parse_metrics(TEXT) == EngineMetrics(7, 2, 0.25)
    assert parse_metrics(TEXT.rstrip(b"\n")) == EngineMetrics(7, 2, 0.25)


def test_several_engines_are_one_node() -> None:
    two = TEXT + TEXT.replace(b'engine="0"', b'engine="1"').replace(b"0.25", b"1.5")
    assert parse_metrics(two) == EngineMetrics(14, 4, 1.0)


def test_absent_metrics_are_not_made_up() -> None:
    assert parse_metrics(b"") is None
    assert parse_metrics(TEXT.replace(b" 2.0", b" two")) is None
    assert parse_metrics(TEXT.replace(b"kv_cache", b"kv")) is None


COUNTERS = b"""vllm:num_preemptions_total{engine="0",model_name="m"} 3.0
vllm:generation_tokens_total{engine="0",model_name="m"} 1.5e+03
vllm:generation_tokens_created{engine="0",model_name="m"} 1.7e+09
vllm:prompt_tokens_total{engine="0",model_name="m"} 40.0
vllm:prompt_tokens_by_source_total{engine="0",model_name="m",source="x"} 9.0
"""


def test_the_cores_step_count_is_read_where_it_exists() -> None:
    found = parse_metrics(TEXT + COUNTERS)
    assert found == EngineMetrics(7, 2, 0.25, 3.0, 1500.0, 40.0)
    assert found is not None
    assert found.can_explain_silence
    without = parse_metrics(TEXT)
    assert without is not None
    assert not without.can_explain_silence


@pytest.mark.parametrize("value", [b"NaN", b"+Inf", b"-Inf", b"1e999", b"\xff\xfe", b""])
def test_an_invalid_number_is_absent(value: bytes) -> None:
    assert parse_metrics(TEXT.replace(b" 7.0", b" " + value)) is None
    found = parse_metrics(TEXT + COUNTERS.replace(b" 3.0", b" " + value))
    assert found is not None
    assert found.preemptions is None


@given(text=st.lists(st.sampled_from([TEXT, COUNTERS, b"1e308\n", b"vllm:num_requests_running ", b"\n", b"NaN"])))
def test_any_text_is_read_as_a_load(text: list[bytes]) -> None:
    found = parse_metrics(b"".join(text))
    assert found is None or (0 <= found.kv_use <= 1 and found.running >= 0 and found.waiting >= 0)
