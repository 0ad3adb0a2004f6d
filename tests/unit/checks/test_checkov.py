"""How checkov's report is judged; `make checkov` runs the tool itself."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from checks import checkov
from checks.checkov import ACCEPTED, Finding, findings, violations
from local.errors import LocalRunError, UserActionRequired

ONE = Finding("CKV_1", "Ensure that it is right", "AWS::S3::Bucket.Models")


def report(*failed: dict[str, str], errors: int = 0) -> dict[str, Any]:
    summary = {"parsing_errors": errors, "resource_count": 1, "passed": 1, "checkov_version": "3"}
    return {"summary": summary, "results": {"failed_checks": list(failed), "parsing_errors": ["a.json"] * errors}}


def test_an_accepted_finding_is_no_complaint_and_any_other_is() -> None:
    assert violations([ONE], {"CKV_1": "why"}) == []
    assert violations([ONE], {}) == ["CKV_1 at AWS::S3::Bucket.Models: Ensure that it is right"]


def test_an_accepted_entry_without_a_finding_is_a_complaint() -> None:
    assert violations([], {"CKV_1": "why"}) == ["CKV_1 is accepted, but there is no such finding any more"]


def test_findings_are_read_from_the_report() -> None:
    failed = {"check_id": ONE.check, "check_name": ONE.title, "resource": ONE.resource, "more": "x"}
    assert findings(report(failed)) == [ONE]


def test_a_template_that_was_not_read_is_not_taken_for_a_good_one() -> None:
    with pytest.raises(LocalRunError, match=r"a\.json"):
        findings(report(errors=1))


def test_every_accepted_entry_has_a_reason() -> None:
    assert all(len(reason) > 40 for reason in ACCEPTED.values())


def test_the_command_prints_each_complaint(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    failed = [{"check_id": check, "check_name": "", "resource": "r"} for check in (*ACCEPTED, "CKV_NEW")]
    monkeypatch.setattr(checkov, "ensure_checkov", lambda: Path("/nowhere"))
    monkeypatch.setattr(checkov, "run", lambda _: report(*failed))
    assert checkov.main() == 1
    assert capsys.readouterr().err.startswith("CKV_NEW at r")
    monkeypatch.setattr(checkov, "run", lambda _: report(*failed[:-1]))
    assert checkov.main() == 0


def test_a_tool_that_cannot_be_installed_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SYNKTI_CACHE", str(tmp_path))

    def fail(command: list[str], **_: object) -> None:
        raise subprocess.CalledProcessError(1, command, stderr="no route\n")

    monkeypatch.setattr(subprocess, "run", fail)
    with pytest.raises(UserActionRequired, match="no route"):
        checkov.ensure_checkov()
    assert checkov.main() == 2
