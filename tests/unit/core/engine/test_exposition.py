"""vLLM's metrics as the admin listener passes them on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from node_agent.core.engine.exposition import MAX_LINES, with_node_label

ENGINE = b"""# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 2.0
# HELP vllm:generation_tokens_total Number of generation tokens processed.
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{engine="0",model_name="a \\"b\\", c"} 1.5e+03
# HELP vllm:generation_tokens_created Number of generation tokens processed.
# TYPE vllm:generation_tokens_created gauge
vllm:generation_tokens_created{engine="0",model_name="m"} 1.7e+09
# TYPE vllm:time_to_first_token_seconds histogram
vllm:time_to_first_token_seconds_bucket{engine="0",le="+Inf"} 3.0
vllm:plain 4
# TYPE process_cpu_seconds_total counter
process_cpu_seconds_total 12.0
"""


def test_each_series_of_vllm_has_the_node_and_nothing_else_is_passed_on() -> None:
    text = with_node_label(ENGINE, "i-0a").decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    assert {sample.labels["node"] for sample in samples} == {"i-0a"}
    values = {sample.name: sample.value for sample in samples}
    assert values == {
        "vllm:num_requests_running": 2.0,
        "vllm:generation_tokens_total": 1500.0,
        "vllm:time_to_first_token_seconds_bucket": 3.0,
        "vllm:plain": 4.0,
    }
    assert next(s for s in samples if "generation" in s.name).labels["model_name"] == 'a "b", c'
    assert "_created" not in text
    assert "process_" not in text
    assert "# HELP vllm:num_requests_running Number" in text


@pytest.mark.parametrize(
    "line",
    [
        b'vllm:x{engine="0"',
        b'vllm:x{engine="0"} two',
        b'vllm:x{node="i-other"} 1',
        b'vllm:x{a="0",node="i-other"} 1',
        b"synkti_streams_open 7",
        b'vllm:x{a="1"} 1 1 1',
        b"vllm:x 1\r",
        b"\xff\xfe",
        b"",
    ],
)
def test_what_has_another_form_is_left_out(line: bytes) -> None:
    assert with_node_label(line + b"\n", "i-0a") == b""


def test_lines_are_bounded() -> None:
    assert with_node_label(b"vllm:x 1\n" * (MAX_LINES + 5), "i").count(b"\n") == MAX_LINES


@given(st.binary(max_size=300), st.text(max_size=20))
def test_any_input_makes_a_readable_answer(junk: bytes, node: str) -> None:
    text = with_node_label(junk + b"\n" + ENGINE, node).decode("utf-8", "surrogateescape")
    assert len(list(text_string_to_metric_families(text))) >= 1
