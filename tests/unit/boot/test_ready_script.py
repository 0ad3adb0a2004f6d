"""ready.sh: the node is reported to its group once it serves, and given up when its time is over."""

from __future__ import annotations

import pytest

from tests.unit.boot.conftest import BOOT, NODE, Instance
from tests.unit.boot.serving import SERVES, UNIT_STATUS, completed


def test_the_lifecycle_action_is_completed_once_when_the_node_serves(instance: Instance) -> None:
    """It serves for three questions, and then no more: after its time it is given up."""
    left = instance.root / "left"
    left.write_text("xxx")
    serves = f'n=$(cat {left}); [ -n "$n" ] && echo "${{n#x}}" >{left}; [ -n "$n" ] && exit 0; exit 22'
    instance.answers("curl", SERVES.format(node=NODE, ready=serves))
    done = instance.run("ready.sh")
    assert done.returncode == 1
    assert completed(instance) == ["CONTINUE"]
    (call,) = [call for call in instance.calls if "complete-lifecycle-action" in call]
    for part in ("--lifecycle-hook-name ready", "--auto-scaling-group-name synkti-fleet", f"--instance-id {NODE}"):
        assert part in call
    assert "not ready for 2 s" in done.stdout


def test_a_node_that_never_serves_is_given_up_in_its_time(instance: Instance) -> None:
    done = instance.run("ready.sh")
    assert done.returncode == 1
    assert completed(instance) == []


def serves_times(instance: Instance, count: int) -> str:
    """What the stand-in of /readyz does: it answers so many times, and then no more."""
    left = instance.root / "left"
    left.write_text("x" * count)
    return f'n=$(cat {left}); [ -n "$n" ] && echo "${{n#x}}" >{left}; [ -n "$n" ] && exit 0; exit 22'


def test_a_group_that_does_not_wait_gets_one_request(instance: Instance) -> None:
    instance.answers("aws", 'echo "ValidationError: No active Lifecycle Action found with instance ID" >&2; exit 1')
    instance.answers("curl", SERVES.format(node=NODE, ready=serves_times(instance, 3)))
    done = instance.run("ready.sh")
    assert done.returncode == 1
    assert len(completed(instance)) == 1
    assert "does not wait" in done.stdout


AWAY = [
    'echo "An error occurred (ServiceUnavailable) when calling the CompleteLifecycleAction operation" >&2; exit 254',
    'echo "Throttling: Rate exceeded" >&2; exit 255',
    'echo "An error occurred (AccessDenied)" >&2; exit 254',
    "echo '<html>502</html>'; exit 1",
    "kill -SEGV $$",
]


@pytest.mark.parametrize("away", AWAY)
def test_the_lifecycle_action_is_retried_until_aws_answers_while_the_node_serves(away: str, instance: Instance) -> None:
    """`complete-lifecycle-action` was away for 31 s, and a serving node was powered off."""
    attempts = instance.root / "attempts"
    attempts.touch()
    instance.answers("aws", f"echo >>{attempts}; [ $(wc -l <{attempts}) -gt 12 ] && exit 0; {away}")
    instance.answers("curl", SERVES.format(node=NODE, ready=serves_times(instance, 15)))
    instance.variables["SYNKTI_READY_WITHIN_S"] = "1"
    done = instance.run("ready.sh")
    assert completed(instance) == ["CONTINUE"] * 13
    assert "reported to the group: CONTINUE" in done.stdout
    waits = [line for line in (instance.root / "calls").read_text().splitlines() if line.startswith("sleep")]
    assert max(int(wait.split()[1]) for wait in waits) == 30, "retried with growing delays within a bound"


def test_the_lifecycle_action_is_completed_without_imds_too(instance: Instance) -> None:
    cloud = instance.root / "var/lib/cloud/data"
    cloud.mkdir(parents=True)
    (cloud / "instance-id").write_text(NODE)
    ready = serves_times(instance, 2)
    instance.answers("curl", f'case "$*" in *readyz*) {ready};; *) exit 7;; esac')
    instance.run("ready.sh")
    (call,) = [call for call in instance.calls if "complete-lifecycle-action" in call]
    assert call.endswith(f"--instance-id {NODE}")


def test_a_node_with_a_full_server_counts_as_serving_by_its_units_status(instance: Instance) -> None:
    """8,200 connections: /readyz is 503 for everybody, and it was given up."""
    shown = instance.root / "shown"
    shown.touch()
    word = UNIT_STATUS.format(active="active", status="serving")
    instance.answers("systemctl", f"echo >>{shown}; [ $(wc -l <{shown}) -gt 40 ] && exit 0; {word}")
    instance.variables["SYNKTI_READY_WITHIN_S"] = "1"
    done = instance.run("ready.sh")
    assert completed(instance) == ["CONTINUE"]
    assert done.returncode == 1, "once its status has changed"


def test_the_scripts_do_not_measure_time_by_the_wall_clock() -> None:
    """bash's SECONDS follows it, and chrony sets the clock while an instance starts."""
    for path in BOOT.glob("*.sh"):
        assert "SECONDS" not in path.read_text().replace("bash's own SECONDS", ""), path.name


def test_a_ready_node_stores_what_it_has_compiled(instance: Instance) -> None:
    instance.answers("curl", SERVES.format(node=NODE, ready=serves_times(instance, 3)))
    instance.run("ready.sh")
    assert [call for call in instance.calls if "synkti-caches" in call] == [
        "systemctl start --no-block synkti-caches.service"
    ]
