"""Test request signatures: each message is accepted once, in time, and only as it was signed."""

from __future__ import annotations

from node_agent.core.common.request_auth import MAX_SKEW_S, RequestVerifier, sign

T0 = 1_000_000.0


def test_a_signed_message_is_accepted_once_and_nothing_else_is() -> None:
    verifier = RequestVerifier(b"key")
    stamp = sign(b"key", "POST", "/x", b"body", T0, "n1")
    assert verifier.rejection_reason(None, "POST", "/x", b"body", T0) == "no signature"
    assert verifier.rejection_reason("v1 a b c", "POST", "/x", b"body", T0) == "no signature"
    assert verifier.rejection_reason(stamp, "POST", "/y", b"body", T0) == "wrong signature"
    assert verifier.rejection_reason(stamp, "POST", "/x", b"other", T0) == "wrong signature"
    assert (
        verifier.rejection_reason(sign(b"other", "POST", "/x", b"body", T0, "n2"), "POST", "/x", b"body", T0)
        == "wrong signature"
    )
    assert verifier.rejection_reason(stamp, "POST", "/x", b"body", T0 + MAX_SKEW_S + 1) == "too old or too new"
    assert verifier.rejection_reason(stamp, "POST", "/x", b"body", T0 - MAX_SKEW_S - 1) == "too old or too new"
    assert verifier.rejection_reason(stamp, "POST", "/x", b"body", T0) is None
    assert verifier.rejection_reason(stamp, "POST", "/x", b"body", T0 + 1) == "seen before"


def test_nonces_expire_by_time_and_by_number() -> None:
    verifier = RequestVerifier(b"key", max_nonces=3)
    for i in range(10):
        assert verifier.rejection_reason(sign(b"key", "GET", "/", b"", T0, str(i)), "GET", "/", b"", T0) is None
    assert len(verifier._seen) == len(verifier._order) == 3
