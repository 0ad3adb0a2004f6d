"""The systemd units: what they promise the agent, and each other."""

from __future__ import annotations

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest

from node_agent.core.node.lifecycle import EXIT_CONFIGURATION
from node_agent.fetch_model import EXIT_DAMAGED, EXIT_DISK, EXIT_MISSING, EXIT_UNAVAILABLE
from node_agent.settings import from_environ
from tests.unit.boot.conftest import BOOT, unit

UNITS = sorted(path.name for path in BOOT.glob("synkti*"))


def test_the_agent_has_a_watchdog_and_is_restarted_and_stopped_whole() -> None:
    node = unit("synkti.service")
    assert node["Type"] == ["notify"]
    assert float(node["WatchdogSec"][0]) > 0
    assert node["KillMode"] == ["mixed"], "the engine is in the agent's control group, and ends with it"
    assert node["Restart"] == ["on-failure"]
    assert node["RestartPreventExitStatus"] == [str(EXIT_CONFIGURATION)]
    assert node["ExecStart"][0].endswith("/python -m node_agent")


def test_an_engine_that_the_kernel_ends_for_lack_of_memory_does_not_end_the_agent() -> None:
    """systemd's default, OOMPolicy=stop, ends the whole unit with any of its processes (systemd.service(5))."""
    assert unit("synkti.service")["OOMPolicy"] == ["continue"]


def test_the_log_for_cloudwatch_has_every_unit_by_its_whole_name() -> None:
    """journalctl ends with an error where a pattern such as synkti* matches no unit yet."""
    command = " ".join((BOOT / "synkti-logs.service").read_text().replace("\\\n", " ").split())
    named = set(command.partition("ExecStart=")[2].partition(" StandardOutput")[0].split("--unit ")[1:])
    named = {name.strip() for name in named}
    services = {path.stem for path in BOOT.glob("synkti*.service")} - {"synkti-give-up@"}
    failing = {name.removesuffix(".service") for name in UNITS if "OnFailure" in unit(name)}
    assert named == services | {f"synkti-give-up@{name}" for name in failing}


def test_a_drain_has_time_before_the_unit_is_killed() -> None:
    term = from_environ({"SYNKTI_MODEL_NAME": "m", "SYNKTI_MODEL_DIR": "d"}).term_grace_s
    assert int(unit("synkti.service")["TimeoutStopSec"][0]) > term


def test_the_agent_has_few_rights_on_its_machine() -> None:
    node = unit("synkti.service")
    assert node["User"] == ["synkti"]
    for setting in ("NoNewPrivileges", "ProtectHome", "PrivateTmp", "RestrictSUIDSGID", "ProtectKernelTunables"):
        assert node[setting] == ["true"]
    assert node["ProtectSystem"] == ["strict"]
    assert node["StateDirectory"] == ["synkti"]


@pytest.mark.parametrize("name", ["synkti-boot.service", "synkti.service", "synkti-ready.service"])
def test_a_unit_that_fails_for_good_gives_up_the_instance(name: str) -> None:
    assert unit(name)["OnFailure"] == ["synkti-give-up@%N.service"]
    assert unit("synkti-give-up@.service")["ExecStart"][0].endswith("/give-up.sh %i"), "it gets the failed unit's name"


def test_a_node_starts_after_its_boot_also_after_a_restart_of_the_instance() -> None:
    node = unit("synkti.service")
    assert node["Requires"] == ["synkti-boot.service"]
    assert "synkti-boot.service" in node["After"][0]
    first = (BOOT / "first.sh").read_text()
    assert "systemctl enable synkti-logs.service synkti-ready.service synkti.service" in first


def test_the_model_waits_for_the_instance_store() -> None:
    """AWS's image mounts it in a unit of its own; before that the model went to the root volume."""
    assert "dlami-nvme.service" in unit("synkti-boot.service")["After"][0].split()


def test_temporary_failures_are_retried_and_permanent_ones_are_not() -> None:
    boot, ready = unit("synkti-boot.service"), unit("synkti-ready.service")
    assert boot["Restart"] == ["on-failure"]
    assert boot["StartLimitIntervalSec"] == ["0"], "however long it takes: ready.sh has the bound"
    permanent = {1, 2, EXIT_DAMAGED, EXIT_MISSING, EXIT_DISK}
    assert set(map(int, boot["RestartPreventExitStatus"][0].split())) == permanent
    assert EXIT_UNAVAILABLE not in permanent
    assert (ready["Restart"], ready["RestartPreventExitStatus"]) == (["on-failure"], ["1"])


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_starts_an_existing_program(name: str) -> None:
    parsed = configparser.ConfigParser(strict=False, interpolation=None, comment_prefixes=("#",))
    parsed.optionxform = str  # type: ignore[assignment, method-assign] # systemd's keys have capitals
    parsed.read(BOOT / name)
    assert parsed.sections()
    for command in [value for key, values in unit(name).items() if key.startswith("Exec") for value in values]:
        scripts = [word for word in command.split() if "/stacks/boot/" in word]
        assert all((BOOT / Path(script).name).exists() for script in scripts)


def test_systemd_analyze_finds_no_fault(tmp_path: Path) -> None:
    """Where systemd is there. The programs are an instance's, so they are stood in for by one that is everywhere."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("no systemd here")
    for name in UNITS:
        unit = (BOOT / name).read_text().replace("/opt/synkti/agent/bin/python", "/bin/true")
        lines = [
            line.split("=")[0] + "=/bin/true" if line.startswith("ExecStart=/opt") else line
            for line in unit.splitlines()
            if not line.startswith("EnvironmentFile")
        ]
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    done = subprocess.run(
        [analyze, "verify", "--man=no", *(str(tmp_path / name) for name in UNITS)],
        capture_output=True,
        text=True,
        check=False,
    )
    ours = [line for line in done.stderr.splitlines() if "synkti" in line]
    assert ours == []
