"""A node may tag itself and nothing else: the script, AWS's answers, the verdict."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from cli.core.first_day.permissions import judge_tags, parse_answers, tag_script
from cli.core.first_day.report import Outcome

OWN, OTHER = "i-0123456789abcdef0", "i-0fedcba9876543210"
ALLOWED, REFUSED = "DryRunOperation", "UnauthorizedOperation"
RIGHT = {"own": ALLOWED, "other": REFUSED, "other-delete": REFUSED, "own-name": REFUSED}

FAKE_AWS = f"""#!/bin/sh
# Answers as EC2 does for a role with the statement TagItself.
case "$*" in
  *--dry-run*) ;;
  *) echo "not a dry run: $*" >> "$LOG"; exit 3 ;;
esac
code={REFUSED}
case "$*" in *{OWN}*Key=SynktiState*) code={ALLOWED} ;; esac
echo >&2
echo "An error occurred ($code) when calling the CreateTags operation: text (with parentheses)" >&2
exit 254
"""


def test_the_script_sends_dry_runs_only_and_its_output_is_parsed(tmp_path: Path) -> None:
    (tmp_path / "aws").write_text(FAKE_AWS)
    (tmp_path / "aws").chmod(0o755)
    log = tmp_path / "log"
    environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "LOG": str(log)}
    script = tag_script("us-east-1", OWN, OTHER)
    done = subprocess.run(["/bin/sh", "-c", script], env=environ, capture_output=True, text=True, check=True)
    assert parse_answers(done.stdout) == RIGHT
    assert not log.exists(), log.read_text()


def test_an_id_is_one_word_of_the_script() -> None:
    script = tag_script("us-east-1", "i-1; reboot", None)
    assert "'i-1; reboot'" in script


@pytest.mark.parametrize(
    ("answers", "has_other", "outcome", "summary"),
    [
        (RIGHT, True, Outcome.OK, "are refused"),
        ({"own": ALLOWED, "own-name": REFUSED}, False, Outcome.NOT_RUN, "no other was there to try"),
        (RIGHT | {"own": REFUSED}, True, Outcome.FAILED, "may not tag itself"),
        (RIGHT | {"other": ALLOWED}, True, Outcome.FAILED, "another node's SynktiState"),
        (RIGHT | {"other-delete": ALLOWED}, True, Outcome.FAILED, "deletion"),
        (RIGHT | {"own-name": ALLOWED}, True, Outcome.FAILED, "Name"),
        (RIGHT | {"other": "RequestExpired"}, True, Outcome.FAILED, "RequestExpired"),
        ({}, True, Outcome.FAILED, "no answer"),
    ],
)
def test_only_its_own_tags_may_be_written(
    answers: dict[str, str], has_other: bool, outcome: Outcome, summary: str
) -> None:
    result = judge_tags(answers, has_other=has_other)
    assert result.outcome is outcome
    assert summary in result.summary
