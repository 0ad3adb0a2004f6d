"""Signatures of requests and answers: each message is accepted once, in time, at its receiver, as it was signed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.core.common.cluster_keys import ClusterKey, cluster_key
from node_agent.core.common.request_auth import (
    MAX_SKEW_S,
    UNKNOWN_RUN,
    Refusal,
    Rejected,
    RequestVerifier,
    Verified,
    read_answer,
    read_clock,
    read_stamp,
    receiver_name,
    request_content,
    sign,
    sign_answer,
    sign_clock,
)

KEY, OTHER, T0 = cluster_key(b"key"), cluster_key(b"other"), 1_000_000.0
HEADERS = (("content-type", "application/json"), ("X-Synkti-Max-Tokens", "5"))
CONTENT = request_content("POST", "/peer/v1/take", HEADERS, b"body")


def key_of(sender: str, key_id: str) -> ClusterKey | Refusal:
    if sender == "i-stranger":
        return Refusal.UNKNOWN_NODE
    return KEY if key_id == KEY.key_id else Refusal.FOREIGN_KEY


def verifier(instance_id: str = "i-b", run: str = "r1", max_nonces: int = 100) -> RequestVerifier:
    return RequestVerifier(instance_id, run, key_of, max_nonces)


def stamp(
    nonce: str = "n1", receiver: str = "i-b/r1", at: float = T0, key: ClusterKey = KEY, sender: str = "i-a"
) -> str:
    return sign(key, CONTENT, at, sender, receiver, nonce)


def reason(result: Verified | Rejected) -> Refusal | None:
    return result.reason if isinstance(result, Rejected) else None


def test_a_signed_message_is_accepted_once_and_names_its_sender() -> None:
    receiver = verifier()
    assert receiver.verify(stamp(), CONTENT, T0) == Verified("i-a", "n1", KEY)
    assert reason(receiver.verify(stamp(), CONTENT, T0 + 1)) is Refusal.REPEATED


@pytest.mark.parametrize(
    ("header", "why"),
    [
        (None, Refusal.UNSIGNED),
        ("v1 1 n s", Refusal.UNSIGNED),
        (stamp().replace("v3", "v2"), Refusal.UNSIGNED),
        (stamp() + " more", Refusal.UNSIGNED),
        (stamp(sender="i-c").replace("i-c", "i-a"), Refusal.WRONG_SIGNATURE),
        (stamp(receiver="i-c/r1").replace("i-c", "i-b"), Refusal.WRONG_SIGNATURE),
        (stamp(key=OTHER), Refusal.FOREIGN_KEY),
        (stamp(key=ClusterKey(KEY.key_id, b"x")), Refusal.WRONG_SIGNATURE),
        (stamp(sender="i-stranger"), Refusal.UNKNOWN_NODE),
        (stamp(at=T0 + MAX_SKEW_S + 1), Refusal.WRONG_TIME),
        (stamp(at=T0 - MAX_SKEW_S - 1), Refusal.WRONG_TIME),
    ],
)
def test_a_message_that_is_not_accepted_has_its_reason(header: str | None, why: Refusal) -> None:
    assert reason(verifier().verify(header, CONTENT, T0)) is why


def test_a_takeover_that_is_signed_for_one_node_is_valid_at_no_other_and_not_after_a_restart() -> None:
    """M5 of the review: a node passed a signed `take` on to others, which accepted it."""
    header = stamp(receiver=receiver_name("i-b", "r1"))
    assert reason(verifier("i-c", "r1").verify(header, CONTENT, T0)) is Refusal.OTHER_RECEIVER
    assert reason(verifier("i-b", "r2").verify(header, CONTENT, T0)) is Refusal.OTHER_RUN
    assert reason(verifier("i-b", "r1").verify(header, CONTENT, T0)) is None


@pytest.mark.parametrize(
    "content",
    [
        request_content("GET", "/peer/v1/take", HEADERS, b"body"),
        request_content("POST", "/peer/v1/tak", HEADERS, b"body"),
        request_content("POST", "/peer/v1/take", HEADERS, b"bodi"),
        request_content("POST", "/peer/v1/take", HEADERS[:1], b"body"),
        request_content("POST", "/peer/v1/take", (*HEADERS, ("x-synkti-kv", "i-evil")), b"body"),
        request_content("POST", "/peer/v1/take", (HEADERS[0], ("x-synkti-max-tokens", "6")), b"body"),
        request_content("POST", "/peer/v1/take", (("content-type", "text/plain"), HEADERS[1]), b"body"),
    ],
)
def test_method_target_headers_and_body_are_signed(content: str) -> None:
    assert reason(verifier().verify(stamp(), content, T0)) is Refusal.WRONG_SIGNATURE


def test_what_a_connection_adds_is_not_signed_and_names_have_no_case() -> None:
    received = (*((n.lower(), v) for n, v in reversed(HEADERS)), ("host", "x"), ("content-length", "4"))
    assert request_content("POST", "/peer/v1/take", received, b"body") == CONTENT


def test_only_a_right_signature_gets_the_receivers_time_and_boot_id() -> None:
    unknown = verifier().verify(stamp(receiver=receiver_name("i-b", UNKNOWN_RUN)), CONTENT, T0)
    assert isinstance(unknown, Rejected)
    assert unknown.reason is Refusal.OTHER_RUN
    assert unknown.clock is not None
    clock = read_clock(KEY, unknown.clock, "n1")
    assert clock is not None
    assert (clock.at, clock.run) == (T0, "r1")
    assert read_clock(KEY, unknown.clock, "n2") is None
    assert read_clock(OTHER, unknown.clock, "n1") is None
    for header in (stamp(key=OTHER, receiver="i-b/?"), stamp(receiver="i-c/?"), None):
        rejected = verifier().verify(header, CONTENT, T0)
        assert isinstance(rejected, Rejected)
        assert rejected.clock is None


def test_nonces_expire_by_time_and_by_number() -> None:
    receiver = verifier(max_nonces=3)
    for number in range(10):
        assert reason(receiver.verify(stamp(f"n{number}"), CONTENT, T0)) is None
    assert len(receiver._seen) == len(receiver._order) == 3
    receiver.verify(stamp("late", at=T0 + 3 * MAX_SKEW_S), CONTENT, T0 + 3 * MAX_SKEW_S)
    assert receiver._seen == {"late"}


ANSWER = (("content-type", "application/json"), ("x-synkti-engine", "1"))


def test_an_answer_is_bound_to_its_request_its_status_its_headers_and_its_body() -> None:
    line = sign_answer(KEY, "n1", 200, ANSWER, b"whole")
    answer = read_answer(KEY, "n1", 200, (*ANSWER, ("date", "now"), ("content-length", "5")), line)
    assert answer is not None
    assert answer.has_body(b"whole")
    assert not answer.has_body(b"other")
    assert not answer.is_stream
    assert read_answer(KEY, "n2", 200, ANSWER, line) is None
    assert read_answer(KEY, "n1", 400, ANSWER, line) is None
    assert read_answer(KEY, "n1", 200, ANSWER[:1], line) is None
    assert read_answer(OTHER, "n1", 200, ANSWER, line) is None
    assert read_answer(KEY, "n1", 200, ANSWER, line.replace(line.split(" ")[1], "-")) is None, "it is no stream"


def test_of_a_stream_the_head_is_signed() -> None:
    line = sign_answer(KEY, "n1", 200, ANSWER, None)
    answer = read_answer(KEY, "n1", 200, ANSWER, line)
    assert answer is not None
    assert answer.is_stream
    assert answer.has_body(b"anything")


@given(st.text(max_size=120))
def test_text_that_is_no_signature_is_refused_and_raises_nothing(text: str) -> None:
    assert reason(verifier().verify(text, CONTENT, T0)) is Refusal.UNSIGNED or read_stamp(text) is not None
    assert read_clock(KEY, text, "n") is None
    assert read_answer(KEY, "n", 200, ANSWER, text) is None


@pytest.mark.parametrize("time", ["", "x", "٣", "-1", "9" * 5000])
def test_a_time_that_is_none_is_refused(time: str) -> None:
    header = stamp().replace(str(round(T0 * 1000)), time)
    assert reason(verifier().verify(header, CONTENT, T0)) is Refusal.UNSIGNED
    line = sign_clock(KEY, "r1", T0, "n").replace(str(round(T0 * 1000)), time)
    assert read_clock(KEY, line, "n") is None
