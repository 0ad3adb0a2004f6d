"""`make audit`: findings, the list of ignored ones, and databases that do not answer."""

from __future__ import annotations

import json
import os
from datetime import date, timedelta
from pathlib import Path

import pytest

from checks import audit
from checks.audit import Finding, Ignored, NotReachable, lock_files, npm_findings, python_findings, read_ignored
from checks.audit import report as report_
from local.errors import LocalRunError

TODAY = date(2026, 11, 30)
FOUND = Finding("requirements/agent.txt", "aiohttp", "3.1", frozenset({"PYSEC-1", "GHSA-1"}), "fixed in 3.2")

PIP_AUDIT = json.dumps(
    {
        "dependencies": [
            {"name": "orjson", "version": "3.13.0", "vulns": []},
            {
                "name": "setuptools",
                "version": "80.10.2",
                "vulns": [
                    {"id": "PYSEC-2", "fix_versions": ["99.1"], "aliases": ["CVE-2", "GHSA-2"], "description": "s"},
                    {"id": "PYSEC-3", "fix_versions": [], "aliases": [], "description": "s"},
                ],
            },
            {"name": "torch", "skip_reason": "not found"},
        ],
        "fixes": [],
    }
)
"""As pip-audit 2.10.1 prints it, seen with a stand-in for its database."""

NPM_AUDIT = json.dumps(
    {
        "auditReportVersion": 2,
        "vulnerabilities": {
            "tar": {
                "name": "tar",
                "severity": "high",
                "via": [{"source": 1, "url": "https://github.com/advisories/GHSA-3", "range": "<7"}],
                "range": "<7",
                "fixAvailable": True,
            },
            "cdk": {"name": "cdk", "severity": "high", "via": ["tar"], "range": "*", "fixAvailable": False},
        },
        "metadata": {},
    }
)


def entry(expires: date, advisory: str = "GHSA-1", package: str = "aiohttp") -> Ignored:
    return Ignored(advisory, package, "not reached: the agent has no server of it", expires)


def test_a_finding_fails_and_an_ignored_one_does_not() -> None:
    (line,) = audit.violations([FOUND], [], TODAY)
    assert line == "requirements/agent.txt: aiohttp 3.1 has GHSA-1, PYSEC-1; fixed in 3.2"
    assert audit.violations([FOUND], [entry(date(2027, 1, 31))], TODAY) == []
    assert len(audit.violations([FOUND], [entry(date(2027, 1, 31), package="yarl")], TODAY)) == 2, "another package's"


def test_an_expired_entry_fails_and_ignores_nothing_from_its_day_on() -> None:
    last = TODAY + timedelta(days=1)
    assert audit.violations([FOUND], [entry(last)], TODAY) == []
    finding, expired = audit.violations([FOUND], [entry(last)], last)
    assert "GHSA-1" in finding
    assert "expired on 2026-12-01: update the package, or decide again" in expired


def test_an_entry_that_holds_for_ever_or_ignores_nothing_fails() -> None:
    later = TODAY + audit.MAX_IGNORED + timedelta(days=1)
    assert "more than 180 days" in audit.violations([FOUND], [entry(later)], TODAY)[-1]
    (unused,) = audit.violations([], [entry(date(2027, 1, 1))], TODAY)
    assert "no such finding any more" in unused
    assert audit.violations([], [entry(date(2027, 1, 1))], TODAY, is_complete=False) == [], "it may be in the rest"


def test_the_list_has_a_reason_and_a_date_for_each_entry() -> None:
    read_ignored(audit.IGNORED.read_text())
    whole = '[[ignored]]\nadvisory = "A"\npackage = "p"\nreason = "r"\nexpires = 2027-01-31\n'
    assert read_ignored(whole) == [Ignored("A", "p", "r", date(2027, 1, 31))]
    for wrong in (whole.replace('"r"', '" "'), whole.replace("2027-01-31", '"2027-01-31"'), "[[ignored]]\n"):
        with pytest.raises(ValueError, match=r"audit_ignored\.toml: .* lacks"):
            read_ignored(wrong)


def test_the_report_of_pip_audit_is_read_with_all_names_of_an_advisory() -> None:
    first, second = python_findings("requirements/build.txt", PIP_AUDIT, "")
    assert first.advisories == {"PYSEC-2", "CVE-2", "GHSA-2"}
    assert (first.package, first.version, first.remedy) == ("setuptools", "80.10.2", "fixed in 99.1")
    assert second.remedy == "not fixed yet"


def test_the_report_of_npm_audit_names_the_package_itself_and_not_what_depends_on_it() -> None:
    (found,) = npm_findings(NPM_AUDIT)
    assert (found.package, set(found.advisories)) == ("tar", {"GHSA-3"})


@pytest.mark.parametrize(
    "errors",
    [
        "Traceback (most recent call last):\nrequests.exceptions.ConnectionError: Failed to resolve 'api.example'",
        "ERROR:pip_audit._cli:Could not connect to the vulnerability feed",
    ],
)
def test_a_database_of_python_that_does_not_answer_is_not_a_clean_result(errors: str) -> None:
    with pytest.raises(NotReachable, match=r"resolve|connect"):
        python_findings("requirements/agent.txt", "", errors)


@pytest.mark.parametrize(
    "document",
    [
        {"message": "request failed, reason: getaddrinfo ENOTFOUND", "error": {"summary": ""}},
        {"message": "405 Method Not Allowed", "statusCode": 405},
    ],
)
def test_a_database_of_npm_that_does_not_answer_is_not_a_clean_result(document: dict[str, object]) -> None:
    with pytest.raises(NotReachable, match=str(document["message"])):
        npm_findings(json.dumps(document))


@pytest.mark.parametrize("output", ["", "not json", '{"statusCode": 400, "message": "bad lock"}'])
def test_another_failure_of_a_tool_is_reported_as_such(output: str) -> None:
    with pytest.raises(LocalRunError, match="npm audit"):
        npm_findings(output)
    with pytest.raises(LocalRunError, match=r"agent\.txt: pip-audit gave no report"):
        python_findings("agent.txt", output, "ERROR: invalid requirement")


def test_without_a_network_the_result_says_so_and_fails_in_ci_only(capsys: pytest.CaptureFixture[str]) -> None:
    results: dict[str, list[Finding] | str] = {"a.txt": "Failed to resolve", "b.txt": []}
    assert report_(results, [], TODAY, in_ci=False) == 0
    shown = capsys.readouterr()
    assert "a.txt: NOT COMPARED: the database is not reachable: Failed to resolve" in shown.err
    assert "not reachable" in shown.err.splitlines()[-1]
    assert shown.out == "b.txt: compared, 0 known vulnerabilities\n"
    assert report_(results, [], TODAY, in_ci=True) == 1


def test_a_finding_fails_also_where_another_database_is_not_reachable() -> None:
    assert report_({"a.txt": "unreachable", "b.txt": [FOUND]}, [], TODAY, in_ci=False) == 1


def test_a_database_that_does_not_answer_is_waited_for_once(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    for name in ("pip-audit", "npm"):
        tool = tmp_path / "bin" / name
        tool.write_text(
            f'#!/bin/sh\necho {name} >>{tmp_path}/calls\necho "ConnectionError: no name" >&2; echo "{{}}"\n'
        )
        tool.chmod(0o755)
    results = audit.audit(tmp_path, {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"})
    assert set(results) == set(lock_files(audit.ROOT))
    assert {results[lock] for lock in results if lock not in audit.NPM_LOCKS} == {"ConnectionError: no name"}
    assert (tmp_path / "calls").read_text().split() == ["pip-audit", "npm"]


def test_every_lock_file_is_looked_up() -> None:
    names = lock_files(audit.ROOT)
    assert {"requirements/agent.txt", "requirements/engine.txt", "requirements/dev.txt", *audit.NPM_LOCKS} <= set(names)
    assert "requirements/audit.txt" in names, "its own as well"
    assert "requirements/python.txt" not in names
