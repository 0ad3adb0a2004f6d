"""From the archive to a node, and from a node to its end: what the boot scripts do, and do not do twice."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from node_agent.contract.launch_breaker import GAVE_UP_EVENT, parse_breaker_event
from node_agent.contract.names import NODE_EVENT_SOURCE
from stacks.constructs.artifact import ROOT
from tests.unit.boot.conftest import BOOT, NODE, Instance, arguments_of

LOCKS = ("bootstrap", "agent", "engine")


@pytest.fixture
def released(instance: Instance) -> Instance:
    """With a release in place, and a Python that makes environments which only look like some."""
    release = instance.root / "opt/synkti/releases/one"
    for name in LOCKS:
        lock = release / "requirements" / f"{name}.txt"
        lock.parent.mkdir(parents=True, exist_ok=True)
        lock.write_text(f"{name}==1\n")
    shutil.copy(ROOT / "requirements/python.txt", release / "requirements")
    # Without a wheelhouse: test_install.py has that.
    instance.answers("aws", 'case "$1 $2" in "s3 ls") exit 1;; esac')
    shutil.copytree(ROOT / "stacks/boot", release / "stacks/boot")
    (instance.root / "opt/synkti/current").symlink_to(release)
    for program in ("python3",):
        path = instance.root / "programs" / program
        path.write_text((instance.root / "programs/aws").read_text())
        path.chmod(0o755)
    # python3 -m venv FOLDER and uv venv FOLDER: with a python and a uv that record their arguments.
    site = instance.root / "site"
    site.mkdir()
    (site / "Python.h").touch()
    record = 'printf \'%s\\n\' "$(basename "$(dirname "$(dirname "$0")")") $(basename "$0") $*" >>"$CALLS"'
    (instance.root / "answers/inner").write_text(
        f'#!/bin/bash\n{record}\ncase "$*" in *getsitepackages*|*sysconfig*) echo {site};; '
        '"venv "*) mkdir -p "${@: -1}/bin"; cp "$0" "${@: -1}/bin/python";; '
        '*node_agent.fetch_model*) [ -e "$ANSWERS/no-model" ] && exit 66; '
        'printf "SYNKTI_MODEL_DIR=%s\\nSYNKTI_ENGINE_ARGS=\'%s\'\\n" "$4" "$SYNKTI_ENGINE_ARGS" >"$6";; esac\nexit 0\n'
    )
    instance.answers(
        "python3",
        'case "$*" in "-m venv "*) mkdir -p "$3/bin"; for name in python uv; do cp "$ANSWERS/inner" "$3/bin/$name"; '
        'chmod +x "$3/bin/$name"; done;; esac',
    )
    return instance


def installed(instance: Instance) -> list[str]:
    """From lock files: without the engine's plug-in, which is a part of the release."""
    calls = [call for call in instance.calls if " pip install " in call or " -m pip install " in call]
    return [call for call in calls if "engine_plugin" not in call]


def boot(instance: Instance) -> str:
    done = instance.shell(str(instance.root / "opt/synkti/current/stacks/boot/boot.sh"))
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_package_is_installed_from_a_lock_file_with_its_hash(released: Instance) -> None:
    boot(released)
    commands = installed(released)
    assert len(commands) == 3
    assert all("--require-hashes" in command for command in commands)
    assert [command.rpartition("/")[2] for command in commands] == [f"{name}.txt" for name in LOCKS]
    assert (released.root / "site/synkti.pth").read_text() == "/opt/synkti/current\n"


def test_the_engine_has_the_plug_in_of_this_release_at_every_start(released: Instance) -> None:
    boot(released)
    boot(released)
    plugged = [call for call in released.calls if "engine_plugin" in call]
    assert len(plugged) == 2
    assert plugged[0].endswith(f"{released.root}/opt/synkti/current/node_agent/engine_plugin")
    assert f"--python {released.root}/opt/synkti/engine/bin/python" in plugged[0]
    assert "--offline" in plugged[0]
    assert "--no-deps" in plugged[0]


def test_a_node_serves_without_the_plugin_if_it_cannot_be_installed(released: Instance) -> None:
    inner = released.root / "answers/inner"
    inner.write_text(inner.read_text().replace('case "$*" in', 'case "$*" in *engine_plugin*) exit 2;;', 1))
    assert "plug-in cannot be installed" in boot(released)
    assert released.calls[-1] == "systemctl start --no-block synkti.service synkti-load.timer"


def test_only_a_new_lock_file_is_installed_again(released: Instance) -> None:
    boot(released)
    boot(released)
    assert len(installed(released)) == 3
    (released.root / "opt/synkti/current/requirements/engine.txt").write_text("engine==2\n")
    boot(released)
    assert len(installed(released)) == 4
    assert installed(released)[-1].endswith("engine.txt")


def test_an_unfinished_environment_is_made_anew(released: Instance) -> None:
    boot(released)
    (stamp,) = (released.root / "opt/synkti/env").glob("agent-*/.installed")
    (stamp.parent / "half").touch()
    stamp.unlink()
    boot(released)
    assert not (stamp.parent / "half").exists()
    assert stamp.exists()


def test_without_a_wheelhouse_a_python_that_cannot_make_environments_is_refused(released: Instance) -> None:
    released.answers("python3", "exit 1")
    done = released.shell(str(released.root / "opt/synkti/current/stacks/boot/boot.sh"))
    assert done.returncode == 1
    assert "no venv, and there is no wheelhouse" in done.stdout


def test_without_a_wheelhouse_the_engine_has_the_python_of_its_lock_file(released: Instance) -> None:
    boot(released)
    made = [call for call in released.calls if " venv --quiet" in call]
    assert len(made) == 2
    assert all("--python 3.12 " in call for call in made), "requirements/engine.txt is compiled for it"


def test_a_python_without_headers_is_refused(released: Instance) -> None:
    (released.root / "site/Python.h").unlink()
    done = released.shell(str(released.root / "opt/synkti/current/stacks/boot/boot.sh"))
    assert done.returncode == 1
    assert "Python.h" in done.stdout


@pytest.mark.parametrize("minors", [(), (0,), (0, 1, 2, 3), (7, 0)])
def test_every_gpu_gets_its_device_file(minors: tuple[int, ...], released: Instance) -> None:
    """`nvidia-modprobe -c 0` makes the first one only. The driver, once loaded, names all of them."""
    for number, minor in enumerate(minors):
        folder = released.root / f"proc/driver/nvidia/gpus/0000:00:{number:02x}.0"
        folder.mkdir(parents=True)
        (folder / "information").write_text(f"Model: \t\t NVIDIA A10G\nDevice Minor: \t {minor}\nGPU Excluded:\t No\n")
    boot(released)
    calls = [call for call in released.calls if call.startswith("nvidia-modprobe")]
    assert calls[0] == "nvidia-modprobe -c 0 -u"
    assert sorted(calls[1:]) == sorted(f"nvidia-modprobe -c {minor}" for minor in minors if minor)


def test_an_unreachable_package_index_is_retried(released: Instance) -> None:
    inner = released.root / "answers/inner"
    inner.write_text(
        inner.read_text().replace('case "$*" in', 'case "$*" in *require-hashes*) exit 1;; esac; case "$*" in')
    )
    done = released.shell(str(released.root / "opt/synkti/current/stacks/boot/boot.sh"))
    assert done.returncode == 69


def test_the_agent_is_started_with_its_environment(released: Instance) -> None:
    boot(released)
    env = released.root / "etc/synkti/node.env"
    environ = dict(line.split("=", 1) for line in env.read_text().splitlines())
    assert environ["SYNKTI_MODEL_DIR"] == str(released.root / "opt/synkti/models/tiny")
    assert (environ["SYNKTI_CLUSTER"], environ["SYNKTI_MODEL_NAME"]) == ("synkti", "tiny")
    assert arguments_of(env) == ["--max-model-len", "8192"]
    assert environ["PATH"].startswith("/opt/synkti/engine/bin:")
    assert environ["AWS_DEFAULT_REGION"] == "us-east-1"
    assert released.calls[-1] == "systemctl start --no-block synkti.service synkti-load.timer"


def test_no_package_is_upgraded_under_a_serving_engine(released: Instance) -> None:
    """New libraries of the driver beside the loaded one: "Driver/library version mismatch", and no engine starts."""
    boot(released)
    (masked,) = [call for call in released.calls if call.startswith("systemctl mask")]
    for name in ("apt-daily-upgrade.timer", "apt-daily-upgrade.service", "unattended-upgrades.service"):
        assert name in masked.split()
    stopped = [call for call in released.calls if call.startswith("systemctl stop")]
    assert "unattended-upgrades.service" in stopped[0]
    released.answers("systemctl", 'case "$1" in mask|stop) exit 5;; esac')
    boot(released)  # an image without them


def test_the_engine_compiles_no_sampler_and_keeps_its_kernels_in_one_folder(released: Instance) -> None:
    """FlashInfer's sampler is compiled at each start and needs nvcc, without which the engine ends (vLLM #49497)."""
    boot(released)
    lines = (released.root / "etc/synkti/node.env").read_text().splitlines()
    environ = dict(line.split("=", 1) for line in lines)
    assert environ["VLLM_USE_FLASHINFER_SAMPLER"] == "0"
    folders = {environ[name] for name in ("VLLM_CACHE_ROOT", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR")}
    assert {folder.rpartition("/")[0] for folder in folders} == {"/var/lib/synkti/compiled"}, "which caches.sh shares"
    assert "curl" not in {call.split()[0] for call in released.calls}, "nothing is fetched where it is off"


def test_a_ready_node_stores_what_it_has_compiled(instance: Instance) -> None:
    instance.answers("curl", SERVES.format(node=NODE, ready=serves_times(instance, 3)))
    instance.run("ready.sh")
    assert [call for call in instance.calls if "synkti-caches" in call] == [
        "systemctl start --no-block synkti-caches.service"
    ]


def fetched(instance: Instance) -> list[str]:
    """Return the folders that models were downloaded to."""
    found = [call.partition("node_agent.fetch_model --to ")[2] for call in instance.calls if "fetch_model" in call]
    return [call.split()[0] for call in found]


def test_the_model_is_on_the_instance_store_if_there_is_one(released: Instance) -> None:
    released.answers("mountpoint", "exit 0")
    (released.root / "opt/dlami/nvme").mkdir(parents=True)
    boot(released)
    assert fetched(released) == [f"{released.root}/opt/dlami/nvme/synkti/models/tiny"]


def test_a_model_in_the_image_is_verified_and_used_in_place(released: Instance) -> None:
    baked = released.root / "opt/synkti/baked-models/tiny"
    baked.mkdir(parents=True)
    boot(released)
    assert fetched(released) == [str(baked)]
    assert f"SYNKTI_MODEL_DIR={baked}\n" in (released.root / "etc/synkti/node.env").read_text()


def test_without_its_model_no_agent_is_started(released: Instance) -> None:
    (released.root / "answers/no-model").touch()
    done = released.shell(str(released.root / "opt/synkti/current/stacks/boot/boot.sh"))
    assert done.returncode == 66
    assert not any("systemctl start" in call for call in released.calls)


def test_logs_are_sent_to_cloudwatch_if_its_agent_is_installed(released: Instance) -> None:
    output = boot(released)
    assert "no CloudWatch agent" in output
    watcher = released.root / "opt/aws/amazon-cloudwatch-agent/bin/amazon-cloudwatch-agent-ctl"
    watcher.parent.mkdir(parents=True)
    watcher.write_text((released.root / "programs/aws").read_text())
    watcher.chmod(0o755)
    output = boot(released)
    assert "no CloudWatch agent" not in output
    assert any(call.startswith("amazon-cloudwatch-agent-ctl -a fetch-config") for call in released.calls)
    config = (released.root / "etc/synkti/cloudwatch-agent.json").read_text()
    assert '"log_group_name": "/synkti/synkti/nodes"' in config


# Ready, or not

SERVES = 'case "$*" in *api/token*) echo token;; *instance-id*) echo {node};; *readyz*) {ready};; *) exit 22;; esac'


def completed(instance: Instance) -> list[str]:
    found = [call for call in instance.calls if "complete-lifecycle-action" in call]
    return [call.partition("--lifecycle-action-result ")[2].split()[0] for call in found]


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


UNIT_STATUS = (
    'case "$*" in *SubState*) echo running;; *StatusText*) printf "ActiveState={active}\nStatusText={status}\n";; esac'
)


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
    instance.answers("journalctl", 'case "$*" in *"--unit synkti-boot.service"*) echo model tiny: not there;; esac')
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


def test_the_number_of_requests_in_flight_is_published(instance: Instance) -> None:
    metrics = "# HELP synkti_engine_requests Requests\\nsynkti_streams_open 9.0\\nsynkti_engine_requests 4.0\\n"
    instance.answers("curl", f'printf "{metrics}"')
    assert instance.run("load.sh").returncode == 0
    (call,) = [call for call in instance.calls if call.startswith("aws")]
    assert "--namespace Synkti --metric-name InFlightRequests" in call
    assert "--value 4.0" in call
    assert call.endswith("--dimensions AutoScalingGroupName=synkti-fleet")


@pytest.mark.parametrize("answer", ["exit 7", 'printf "synkti_streams_open 9.0\\n"'])
def test_nothing_is_published_without_a_value(answer: str, instance: Instance) -> None:
    instance.answers("curl", answer)
    assert instance.run("load.sh").returncode != 0
    assert not any(call.startswith("aws") for call in instance.calls)


def test_the_published_metric_exists_in_the_agent() -> None:
    assert '"synkti_engine_requests"' in (ROOT / "node_agent/runtime/common/metrics.py").read_text()
    assert "synkti_engine_requests" in Path(ROOT / "stacks/boot/load.sh").read_text()
