"""give-up.sh: only a node that cannot serve ends its instance, and it reports why."""

from __future__ import annotations

import json

import pytest

from node_agent.contract.launch_breaker import GAVE_UP_EVENT, parse_breaker_event
from node_agent.contract.names import NODE_EVENT_SOURCE
from tests.unit.boot.conftest import NODE, Instance
from tests.unit.boot.serving import SERVES, UNIT_STATUS, completed


@pytest.mark.parametrize("answer", ["door", "word"])
def test_a_node_that_serves_is_not_given_up(answer: str, instance: Instance) -> None:
    if answer == "door":
        instance.answers("curl", SERVES.format(node=NODE, ready="exit 0"))
    else:
        instance.answers("systemctl", UNIT_STATUS.format(active="active", status="serving until its drain ends"))
    done = instance.run("give-up.sh", "synkti")
    assert done.returncode == 0
    assert "the agent serves" in done.stdout
    assert not any("poweroff" in call or call.startswith("aws") for call in instance.calls)
    assert instance.calls[-1] == "systemctl start --no-block synkti-ready.service", "the watch continues"


@pytest.mark.parametrize(("active", "status"), [("failed", "serving"), ("active", "starting"), ("active", "")])
def test_an_old_status_of_a_stopped_agent_does_not_keep_the_node(active: str, status: str, instance: Instance) -> None:
    instance.answers("systemctl", UNIT_STATUS.format(active=active, status=status))
    instance.run("give-up.sh", "synkti")
    assert instance.calls[-1] == "systemctl poweroff"


def test_a_node_that_gives_up_uploads_its_log_and_powers_off(instance: Instance) -> None:
    instance.answers("journalctl", "echo the last words")
    kept = instance.root / "kept.log"
    instance.answers("aws", f'case "$*" in *"s3 cp"*) cp "$4" {kept};; esac')
    done = instance.run("give-up.sh", "synkti")
    assert done.returncode == 0, done.stderr
    assert kept.read_text() == "the last words\n"
    (upload,) = [call for call in instance.calls if "s3 cp" in call]
    assert f"s3://synkti-checkpoints/end-of-life/{NODE}/" in upload
    assert upload.endswith("-gave-up.log")
    assert completed(instance) == ["ABANDON"]
    assert instance.calls[-1] == "systemctl poweroff"


def test_a_node_powers_off_although_all_else_fails(instance: Instance) -> None:
    instance.answers("aws", "exit 1")
    instance.answers("curl", "exit 7")
    instance.answers("journalctl", "exit 1")
    assert instance.run("give-up.sh", "synkti").returncode == 0
    assert instance.calls[-1] == "systemctl poweroff"


def test_a_failed_node_is_kept_if_the_settings_require_it(instance: Instance) -> None:
    instance.variables["SYNKTI_KEEP_FAILED_NODES"] = "true"
    done = instance.run("give-up.sh", "synkti")
    assert "the instance stays" in done.stdout
    assert completed(instance) == []
    assert not any("poweroff" in call for call in instance.calls)
    assert any("s3 cp" in call for call in instance.calls), "its log is worth as much"
    assert gave_up_event(instance)["EC2InstanceId"] == NODE


def gave_up_event(instance: Instance) -> dict[str, str]:
    """The event that was put, as the Lambda parses it."""
    (call,) = [call for call in instance.calls if call.startswith("aws events put-events")]
    (entry,) = json.loads(call.partition("--entries ")[2])
    assert (entry["Source"], entry["DetailType"]) == (NODE_EVENT_SOURCE, GAVE_UP_EVENT)
    detail: dict[str, str] = json.loads(entry["Detail"])
    return detail


def test_a_node_that_gives_up_reports_the_engines_last_words(instance: Instance) -> None:
    words = instance.root / "words"
    words.write_text('failed: the engine cannot start: ValueError: The "max" len \\ (131072) is — & too long')
    instance.answers("systemctl", f'case "$*" in *StatusText*--value*) cat {words};; esac')
    done = instance.run("give-up.sh", "synkti")
    assert "synkti: the engine cannot start: ValueError" in done.stdout, "it is in the log that goes to S3"
    found = gave_up_event(instance)
    assert (found["AutoScalingGroupName"], found["EC2InstanceId"]) == ("synkti-fleet", NODE)
    assert found["Reason"].startswith("synkti: the engine cannot start: ValueError: The  max  len   (131072) is ")
    assert found["Reason"].endswith("& too long")
    raw = {"id": "e", "detail-type": GAVE_UP_EVENT, "time": "2026-11-30T04:00:00Z", "detail": found}
    assert parse_breaker_event(raw) is not None


def test_a_node_whose_boot_failed_reports_its_last_line(instance: Instance) -> None:
    instance.answers(
        "journalctl", 'case "$*" in *_SYSTEMD_UNIT=synkti-boot.service*) echo model tiny: not there;; esac'
    )
    instance.run("give-up.sh", "synkti-boot")
    assert gave_up_event(instance)["Reason"] == "synkti-boot: model tiny: not there"


def test_a_long_reason_is_cut_and_an_event_that_cannot_be_put_does_not_keep_the_node(instance: Instance) -> None:
    instance.answers("journalctl", "head --bytes 9000 /dev/zero | tr '\\0' x")
    instance.answers("aws", "exit 1")
    done = instance.run("give-up.sh", "synkti-ready")
    assert len(gave_up_event(instance)["Reason"]) == 400
    assert "could not be reported" in done.stdout
    assert instance.calls[-1] == "systemctl poweroff"


UNIT_NAMES = ["synkti", "synkti-boot", "synkti-ready"]


@pytest.mark.parametrize("unit_name", UNIT_NAMES)
def test_a_unit_that_restarts_is_not_given_up(unit_name: str, instance: Instance) -> None:
    instance.answers("systemctl", f'case "$*" in *SubState*{unit_name}.service) echo auto-restart;; esac')
    assert "nothing is given up yet" in instance.run("give-up.sh", unit_name).stdout
    assert not any("poweroff" in call or "aws" in call for call in instance.calls)


@pytest.mark.parametrize("failed", UNIT_NAMES)
def test_a_restart_of_another_unit_does_not_keep_the_node(failed: str, instance: Instance) -> None:
    """The time of `ready` was up while the agent was between two starts: nothing watched the node any more."""
    instance.answers(
        "systemctl", f'case "$*" in *SubState*{failed}.service) echo failed;; *SubState*) echo auto-restart;; esac'
    )
    assert f"this node does not serve; {failed}: " in instance.run("give-up.sh", failed).stdout
    assert instance.calls[-1] == "systemctl poweroff"


def test_a_long_log_is_cut_to_its_end(instance: Instance) -> None:
    instance.answers("journalctl", "head --bytes 6000000 /dev/zero | tr '\\0' x; echo; echo the last words")
    kept = instance.root / "kept.log"
    instance.answers("aws", f'case "$*" in *"s3 cp"*) cp "$4" {kept};; esac')
    instance.run("end-of-life.sh", "success")
    assert kept.stat().st_size == 4 * 1024 * 1024
    assert kept.read_text().endswith("the last words\n")
