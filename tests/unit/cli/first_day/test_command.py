"""`synkti drill first-day` as a command: its steps, its report, its exit codes."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import boto3
import pytest

from cli import drill_first_day
from cli.adapters.instances import Instances
from cli.core.first_day.report import Outcome, StepResult, failed, not_run, passed
from cli.first_day.day import FirstDay
from cli.first_day.run import Step, Undo
from tests.unit.cli.conftest import ACCOUNT, DeployedFleet, Run
from tests.unit.cli.fake_clock import FakeClock


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drill_first_day, "CLOCK", FakeClock().clock)


def one_step(monkeypatch: pytest.MonkeyPatch, result: StepResult | BaseException) -> list[str]:
    """Replace the steps by one; return what it has undone."""
    undone: list[str] = []

    def act() -> bool:
        undone.append("it")
        return True

    def carry_out(day: FirstDay, undo: Undo) -> StepResult:
        undo.add("it is as before", "mend it", act)
        if isinstance(result, BaseException):
            raise result
        return result

    monkeypatch.setattr(drill_first_day, "STEPS", (Step("one", "One", carry_out),))
    return undone


def only(folder: Path, ending: str) -> str:
    (path,) = folder.glob(f"synkti-first-day-*.{ending}")
    return path.read_text(encoding="utf-8")


def test_the_report_has_no_account_number_whatever_a_step_finds(
    fleet: DeployedFleet, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_step(monkeypatch, passed(f"arn:aws:iam::{ACCOUNT}:role/x on {fleet.ids[0]}", node=fleet.ids[1]))
    document = run("drill", "first-day", "--report", tmp_path / "out", "--json").document
    page, written = only(tmp_path / "out", "md"), only(tmp_path / "out", "json")
    for text in (page, written, json.dumps(document)):
        assert ACCOUNT not in text
        assert fleet.ids[0] not in text
        assert fleet.ids[1] not in text
    assert json.loads(written) == {key: value for key, value in document.items() if key != "files"}
    assert document["steps"][0]["undone"] == ["it is as before"]
    assert "<account>" in document["steps"][0]["summary"]


@pytest.mark.parametrize(
    ("result", "code"),
    [
        (passed("fine"), 0),
        (not_run("declined"), 0),
        (StepResult(Outcome.BY_HAND, "a mail"), 0),
        (failed("wrong"), 3),
        (KeyboardInterrupt(), 130),
    ],
)
def test_the_exit_code_is_that_of_the_worst_step(
    fleet: DeployedFleet,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    result: StepResult | BaseException,
    code: int,
) -> None:
    undone = one_step(monkeypatch, result)
    assert run("drill", "first-day", "--report", tmp_path).code == code
    assert undone == ["it"]
    assert only(tmp_path, "md"), "the report is written, also after Ctrl-C"


def test_a_cancelled_job_undoes_what_it_changed(
    fleet: DeployedFleet, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undone = one_step(monkeypatch, passed("fine"))
    (step,) = drill_first_day.STEPS

    def terminated(day: FirstDay, undo: Undo) -> StepResult:
        step.carry_out(day, undo)
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("SIGTERM ends the step")

    monkeypatch.setattr(drill_first_day, "STEPS", (Step("one", "One", terminated),))
    before = signal.getsignal(signal.SIGTERM)
    assert run("drill", "first-day", "--report", tmp_path).code == 130
    assert undone == ["it"]
    assert signal.getsignal(signal.SIGTERM) == before


def test_every_step_gives_a_result_where_little_is_there(fleet: DeployedFleet, run: Run, tmp_path: Path) -> None:
    """moto's fleet: no alarms, no drills, on-demand instances, no terminal to confirm."""
    fleet.ready()
    done = run("drill", "first-day", "--report", tmp_path, "--json")
    steps: dict[str, Any] = {step["step"]: step for step in done.document["steps"]}
    assert list(steps) == ["fleet", "launch", "tags", "alarm", "drain", "interruption", "fallback"]
    assert (steps["fleet"]["outcome"], steps["fleet"]["facts"]["ready"]) == ("ok", 2)
    assert (steps["alarm"]["outcome"], steps["alarm"]["summary"]) == ("not run", "the cluster has no alarms")
    for name in ("drain", "interruption", "fallback"):
        assert steps[name]["outcome"] == "not run"
        assert steps[name]["advice"] == "add --yes", steps[name]
    assert fleet.size() == (0, 4, 2)
    assert fleet.running() == set(fleet.ids)


def test_a_fleet_that_does_not_serve_is_a_finding(fleet: DeployedFleet, run: Run, tmp_path: Path) -> None:
    done = run("drill", "first-day", "--step", "fleet", "--report", tmp_path)
    assert done.code == 3
    assert "synkti nodes --wait" in done.out


def test_wrong_options_are_refused_before_anything_is_read(run: Run) -> None:
    done = run("drill", "first-day", "--step", "everything")
    assert (done.code, "steps: fleet, launch" in done.err) == (2, True)


def test_a_url_needs_a_host(fleet: DeployedFleet, run: Run) -> None:
    done = run("drill", "first-day", "--url", "node")
    assert (done.code, "--url http://127.0.0.1:8000" in done.err) == (2, True)


def test_a_folder_that_cannot_be_written_is_an_error(
    fleet: DeployedFleet, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_step(monkeypatch, passed("fine"))
    (tmp_path / "file").write_text("")
    done = run("drill", "first-day", "--report", tmp_path / "file" / "out")
    assert (done.code, "--report FOLDER" in done.err) == (1, True)
    assert "fine" in done.out, "the terminal has the result all the same"


def test_an_instance_without_tags_still_runs_until_ec2_ends_it(fleet: DeployedFleet) -> None:
    """A node that drains removes its tags half a minute or less before its end."""
    ec2 = boto3.client("ec2")
    instances = Instances(ec2, "synkti")
    ec2.delete_tags(Resources=[fleet.ids[0]], Tags=[{"Key": "SynktiRole"}])
    assert fleet.ids[0] not in {node.instance_id for node in instances.nodes()}
    assert instances.is_running(fleet.ids[0])
    ec2.terminate_instances(InstanceIds=[fleet.ids[0]])
    assert not instances.is_running(fleet.ids[0])
    assert not instances.is_running("i-0000000000000000f")
