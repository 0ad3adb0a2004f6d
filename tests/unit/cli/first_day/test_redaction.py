"""A report has no secrets and no account numbers, whatever the texts are that AWS sends."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.core.first_day.redaction import Redactor

ACCOUNT = "123456789012"
DENIED = (
    "An error occurred (UnauthorizedOperation) when calling the CreateTags operation: You are not authorized. User: "
    f"arn:aws:sts::{ACCOUNT}:assumed-role/synkti-fleet-NodeRole/i-0abcdef0123456789 is not authorized to perform: "
    f"ec2:CreateTags on resource: arn:aws:ec2:us-east-1:{ACCOUNT}:instance/i-0123456789abcdef0. "
    "Encoded authorization failure message: " + "Zm9v-_" * 40
)


def redactor() -> Redactor:
    return Redactor({ACCOUNT: "<account>", "llm.example.com": "<host>", "": "never"})


def test_a_refusal_of_aws_keeps_its_meaning_only() -> None:
    text = redactor().text(DENIED)
    assert "UnauthorizedOperation" in text
    assert "on resource: arn:aws:ec2:us-east-1:<account>:instance/node-2" in text
    assert "message: <encoded>" in text
    assert ACCOUNT not in text


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("mail to ops.team+gpu@example.co.uk now", "mail to <e-mail> now"),
        ("10.71.3.9 and ip-10-71-3-9.ec2.internal", "<address> and <host>"),
        ("ec2-3-91-24-7.compute-1.amazonaws.com answers", "<host> answers"),
        ("synkti-1a2b.elb.us-east-1.amazonaws.com.cn", "<host>"),
        ("2600:1f18:22c5:9a01:7f1f:2d6e:4c3b:1a2f", "<address>"),
        ("at 10:02:11 of 2026-11-24", "at 10:02:11 of 2026-11-24"),
        ("key AKIAIOSFODNN7EXAMPLE", "key <key>"),
        ("another account 999988887777.", "another account <account>."),
        ("bucket synkti-models-123456789012-us-east-1", "bucket synkti-models-<account>-us-east-1"),
        ("https://llm.example.com/v1", "https://<host>/v1"),
        ("took 1763980000123 ms", "took 1763980000123 ms"),
    ],
)
def test_what_identifies_somebody_is_replaced(text: str, left: str) -> None:
    assert redactor().text(text) == left


def test_a_node_has_the_same_number_everywhere() -> None:
    found = redactor()
    assert found.text("i-0123456789abcdef0 then i-0fedcba9876543210") == "node-1 then node-2"
    assert found.facts({"a": ["i-0fedcba9876543210"], "b": 3, "c": None}) == {"a": ["node-2"], "b": 3, "c": None}
    assert found.text("vpc-0123456789abcdef0") == "vpc-1"


@given(before=st.text(), after=st.text())
def test_the_account_is_in_no_text(before: str, after: str) -> None:
    assert ACCOUNT not in redactor().text(before + ACCOUNT + after)
