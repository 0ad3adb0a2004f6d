"""The report as a page and as a document."""

from __future__ import annotations

import json

from cli.core.first_day.redaction import Redactor
from cli.core.first_day.report import Outcome, Report, StepRecord, StepResult, failed, not_run, passed

ACCOUNT = "123456789012"


def report() -> Report:
    steps = (
        StepRecord("fleet", "The nodes serve", passed("3 of 3 nodes ready", ready=3, types=["g6.xlarge"]), 0.0, 1.2),
        StepRecord("tags", "Tags", failed(f"role of {ACCOUNT}", "docs", own=None, refused=True), 2.0, 3.0),
        StepRecord("alarm", "Mail", StepResult(Outcome.BY_HAND, "sent a|b <c>"), 5.0, 1.0, ("the alarm is OK again",)),
        StepRecord("drain", "Drain", not_run("declined"), 6.0, 0.0, (), (f"synkti resume in {ACCOUNT}",)),
    )
    return Report({"region": "us-east-1", "user": f"arn:aws:iam::{ACCOUNT}:user/x"}, 1_764_000_000.0, 3720.0, steps)


def test_the_page_has_every_step_with_its_outcome() -> None:
    page = report().markdown()
    assert "2025-11-24T16:00:00.000Z, 62 minutes." in page
    assert "**1 ok, 1 failed, 1 check by hand, 1 not run**" in page
    assert "| The nodes serve | ok | 3 of 3 nodes ready | 1 s |" in page
    assert "*Do:* docs" in page
    assert "| tags | `refused` | yes |" in page
    assert "| tags | `own` | not known |" in page
    assert "sent a\\|b &lt;c>" in page, "a text stays within its cell"
    assert "## Undone\n\n- the alarm is OK again" in page
    assert "## Not undone: do this by hand\n\n- synkti resume" in page
    assert "| region | us-east-1 |" in page


def test_the_document_has_the_same() -> None:
    document = json.loads(json.dumps(report().document()))
    assert [step["outcome"] for step in document["steps"]] == ["ok", "failed", "check by hand", "not run"]
    assert document["steps"][0]["facts"] == {"ready": 3, "types": ["g6.xlarge"]}
    assert (document["format"], document["took_s"], document["interrupted"]) == (1, 3720.0, False)


def test_a_step_that_left_something_behind_counts_as_failed() -> None:
    assert [step.name for step in report().failed] == ["tags", "drain"]


def test_every_text_is_redacted() -> None:
    made = report().redacted(Redactor({ACCOUNT: "<account>"}))
    assert ACCOUNT not in made.markdown()
    assert ACCOUNT not in json.dumps(made.document())
    assert made.steps[0].result.facts == {"ready": 3, "types": ["g6.xlarge"]}
