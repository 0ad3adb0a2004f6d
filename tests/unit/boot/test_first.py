"""The user data: from a bare instance to the agent's archive, checked, and its boot service started."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from stacks.settings import FleetSettings
from tests.unit.boot.conftest import NODE, Instance

if TYPE_CHECKING:
    from stacks.constructs.artifact import Archive

# The CDK is imported where it is used: each process that collects this file would start a Node process.


@pytest.fixture(scope="module")
def archive() -> Archive:
    from stacks.constructs.artifact import AGENT, pack  # noqa: PLC0415

    return pack(AGENT)


@pytest.fixture
def script(instance: Instance, archive: Archive) -> Path:
    """The user data as a launch template has it, for an archive that the stand-in of S3 gives out."""
    from stacks.constructs.boot import boot_variables, user_data  # noqa: PLC0415

    stored = instance.root / "archive.tar"
    stored.write_bytes(archive.content)
    instance.answers("aws", f'case "$*" in *s3://assets/*) cp {stored} "${{@: -1}}";; esac')
    artifact: Any = SimpleNamespace(url="s3://assets/agent.tar", sha256=archive.sha256)
    state: Any = SimpleNamespace(
        models=SimpleNamespace(bucket_name="synkti-models"),
        checkpoints=SimpleNamespace(bucket_name="synkti-checkpoints"),
    )
    settings = FleetSettings(model="tiny", engine_args=("--max-model-len", "8192"))
    path = instance.root / "user-data"
    path.write_text(user_data(boot_variables(settings, artifact, state, "us-east-1")))
    cloud = instance.root / "var/lib/cloud/data"
    cloud.mkdir(parents=True)
    (cloud / "instance-id").write_text(NODE)
    return path


def test_the_archive_is_fetched_verified_unpacked_and_run(instance: Instance, script: Path, archive: Archive) -> None:
    done = instance.shell(str(script))
    assert done.returncode == 0, done.stderr
    release = instance.root / "opt/synkti/current"
    assert release.resolve().name == archive.sha256
    assert (release / "node_agent/__main__.py").is_file()
    assert (release / "stacks/boot/boot.sh").stat().st_mode & 0o111
    units = {path.name for path in (instance.root / "etc/systemd/system").iterdir()}
    assert {"synkti-boot.service", "synkti.service", "synkti-load.timer"} <= units
    assert instance.calls[-1].startswith("systemctl start --no-block")
    assert "synkti-boot.service" in instance.calls[-1]
    assert "synkti-ready.service" in instance.calls[-1]


def test_the_folder_of_the_log_is_there_before_its_unit_starts(instance: Instance, script: Path) -> None:
    """systemd opens the file of `StandardOutput=append:` before it creates a `LogsDirectory=`."""
    instance.answers("systemctl", f'[ -d {instance.root}/var/log/synkti ] || echo "too early" >>"$CALLS"')
    instance.shell(str(script))
    assert "too early" not in instance.calls
    assert (instance.root / "var/log/synkti").is_dir()


def test_the_settings_are_a_file_that_a_shell_reads(instance: Instance, script: Path) -> None:
    instance.shell(str(script))
    env = instance.root / "etc/synkti/boot.env"
    printed = instance.shell("-c", f'. {env}; echo "$SYNKTI_ENGINE_ARGS|$SYNKTI_MODEL_SHA256|$SYNKTI_GROUP"')
    assert printed.stdout == '["--max-model-len", "8192"]||synkti-fleet\n'
    lines = env.read_text().splitlines()
    assert not any('"' in line and "'" not in line for line in lines), "systemd would take the quotes away"


def test_a_second_run_downloads_nothing(instance: Instance, script: Path) -> None:
    instance.shell(str(script))
    before = len([call for call in instance.calls if call.startswith("aws s3 cp")])
    assert instance.shell(str(script)).returncode == 0
    assert len([call for call in instance.calls if call.startswith("aws s3 cp")]) == before == 1


def test_an_archive_other_than_the_deployed_one_is_not_unpacked(
    instance: Instance, script: Path, archive: Archive
) -> None:
    (instance.root / "archive.tar").write_bytes(archive.content + b"and more")
    done = instance.shell(str(script))
    assert done.returncode == 1
    assert not (instance.root / "opt/synkti/current").exists()
    assert f"end-of-life/{NODE}/first-boot.log" in "".join(instance.calls)
    assert instance.calls[-1] == "systemctl poweroff"
    assert hashlib.sha256(archive.content).hexdigest() == archive.sha256


def test_an_unavailable_archive_is_retried_a_few_times(instance: Instance, script: Path) -> None:
    instance.answers("aws", "exit 1")
    assert instance.shell(str(script)).returncode == 1
    assert len([call for call in instance.calls if "s3://assets/" in call]) == 5
    assert instance.calls[-1] == "systemctl poweroff"


def test_a_failed_instance_is_kept_if_the_settings_require_it(instance: Instance, script: Path) -> None:
    instance.answers("aws", "exit 1")
    script_text = script.read_text().replace("SYNKTI_KEEP_FAILED_NODES=false", "SYNKTI_KEEP_FAILED_NODES=true")
    script.write_text(script_text)
    assert instance.shell(str(script)).returncode == 1
    assert not any("poweroff" in call for call in instance.calls)
