"""What a limited client reads in headers and messages; what its tokens are taken for before and after an answer."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.core.access.caller import KeyLimits
from node_agent.core.access.key_usage import KeyUsage, Limit, Refused, digest_of
from node_agent.core.access.limit_headers import duration, limit_headers, refusal_message, zero_message
from node_agent.core.access.token_estimate import (
    DEFAULT_ANSWER,
    Count,
    Estimate,
    estimate,
    estimate_left,
    read_event_usage,
    read_usage,
)
from node_agent.core.openai.generation_request import ApiRoute, read_generation


def test_headers_name_what_is_limited_and_only_that() -> None:
    usage = KeyUsage(digest_of("k"), KeyLimits(requests_per_minute=10, streams=3))
    usage.admit(0.0, 7, 0)
    assert dict(limit_headers(usage)) == {
        b"x-ratelimit-limit-requests": b"10",
        b"x-ratelimit-remaining-requests": b"9",
        b"x-ratelimit-reset-requests": b"1m0s",
    }
    usage.limits = KeyLimits(tokens_per_minute=5)
    headers = dict(limit_headers(usage, b"7s"))
    assert (headers[b"x-ratelimit-remaining-tokens"], headers[b"x-ratelimit-reset-tokens"]) == (b"0", b"7s")
    usage.limits = KeyLimits()
    assert limit_headers(usage) == []


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, b"0s"), (0.25, b"250ms"), (1.0, b"1s"), (1.5, b"1.5s"), (60.0, b"1m0s"), (-1.0, b"0s")]
)
def test_durations_are_written_as_openai_writes_them(seconds: float, text: bytes) -> None:
    assert duration(seconds) == text


def test_messages_name_the_limit_and_what_to_do() -> None:
    refused = Refused(Limit.TOKENS, 100, 90, 20, 12.0)
    assert refusal_message(refused) == (
        "This key's tokens a minute are used up: limit 100, used 90, requested 20. Try again in 12 s."
    )
    large = Refused(Limit.TOKENS, 100, 0, 200, None)
    assert refusal_message(large).startswith("Request too large for this key's tokens a minute: limit 100")
    assert "its limit is 0" in zero_message(Limit.STREAMS)


def test_a_requests_tokens_are_estimated_from_its_bytes_and_max_tokens() -> None:
    assert (estimate(9).prompt, estimate(9).answer) == (3, 0)
    assert estimate(400, None, 2).total == 100 + 2 * DEFAULT_ANSWER
    assert estimate(4, 2**62, 1_000).answer < 2**21
    assert estimate(4, 300).counted(None) == (1, 0)
    assert estimate(0, 300).counted(1_000) == (1, 100)
    assert estimate(8, 30).counted(1_000) == (2, 30)
    assert estimate(4 * 995, 300).counted(1_000) == (995, 5)
    assert estimate(4 * 2_000, 300).counted(1_000) == (2_000, 0)
    body = orjson.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 7, "n": 3})
    assert read_generation(ApiRoute.CHAT, body).token_estimate(len(body)).answer == 21


@pytest.mark.parametrize(
    ("body", "count"),
    [
        (b'{"choices":[{"text":"\\"usage\\":{"}],"usage":{"prompt_tokens":3,"completion_tokens":5}}', Count(3, 5)),
        (b'{"usage": {"input_tokens":3,"output_tokens":5,"more":{"a":1}},"x":1}', Count(3, 5)),
        (b'{"data":[],"usage":{"prompt_tokens":3,"total_tokens":3}}', Count(3, 0)),
        (b'{"usage":{"prompt_tokens":"3"}}', None),
        (b'{"usage":{"prompt_tokens":-3}}', None),
        (b'{"usage":{"prompt_tokens":true}}', None),
        (b'{"usage":null}', None),
        (b'{"usage":' + b"[" * 5_000, None),
        (b'{"usage":{"prompt_tokens":', None),
        (b"{}", None),
    ],
)
def test_an_engines_count_is_read_where_there_is_one(body: bytes, count: Count | None) -> None:
    assert read_usage(body) == count


@given(st.binary(max_size=300))
def test_an_answer_of_any_bytes_has_a_count_or_none(body: bytes) -> None:
    for answer in (body, b'{"usage":' + body):
        count = read_usage(answer)
        assert count is None or min(count) >= 0


def test_a_request_whose_client_left_used_what_its_engine_had_time_for() -> None:
    estimated = Estimate(12, 400)
    assert estimate_left(estimated, 2.0, 0.02) == Count(12, 100)
    assert estimate_left(estimated, 2.0, 0.02, choices=3) == Count(12, 300)
    assert estimate_left(estimated, 60.0, 0.02) == Count(12, 400)
    assert estimate_left(estimated, 2.0, 0.0) == Count(12, 400)  # the engine's pace is not known
    assert estimate_left(Estimate(12, 0), 2.0, 0.02) == Count(12, 0)


@pytest.mark.parametrize(
    ("event", "count"),
    [
        ({"type": "response.completed", "response": {"usage": {"input_tokens": 9, "output_tokens": 4}}}, Count(9, 4)),
        (
            {"type": "message_start", "message": {"usage": {"input_tokens": 2, "cache_read_input_tokens": 7}}},
            Count(9, 0),
        ),
        ({"type": "message_delta", "usage": {"input_tokens": 9, "output_tokens": 4}}, Count(9, 4)),
        ({"type": "message_delta", "usage": {"input_tokens": True, "output_tokens": 4}}, None),
        ({"type": "response.created", "response": {"usage": None}}, None),
        ({"response": [], "message": "x", "usage": 5}, None),
    ],
)
def test_an_events_usage_is_read_in_both_forms(event: dict[str, object], count: Count | None) -> None:
    assert read_event_usage(event) == count
