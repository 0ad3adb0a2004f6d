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
    assert node["KillMode"] == ["mixed"], "SIGTERM to the agent only: it drains"
    assert node["Restart"] == ["on-failure"]
    assert node["RestartPreventExitStatus"] == [str(EXIT_CONFIGURATION)]
    assert node["ExecStart"][0].endswith("/python -m node_agent")


def test_the_engine_is_a_unit_and_a_user_of_its_own_that_ends_with_the_agent() -> None:
    engine, node, listener = unit("synkti-engine.service"), unit("synkti.service"), unit("synkti-engine.socket")
    assert (engine["User"], node["User"]) == (["synkti-engine"], ["synkti"])
    assert engine["BindsTo"] == engine["Before"] == ["synkti.service"], "it ends with the agent, and after it"
    assert engine["ExecStart"] == ["/opt/synkti/agent/bin/python -m node_agent.engine_launcher"]
    assert (listener["SocketUser"], listener["SocketMode"]) == (["synkti"], ["0600"]), "the agent alone may start it"
    assert "synkti-engine.socket" in node["Requires"][0].split()
    assert f"SYNKTI_ENGINE_SOCKET={listener['ListenStream'][0]}" in node["Environment"][0].split()
    assert engine["StartLimitIntervalSec"] == ["0"], "the agent bounds the restarts"


def test_an_engine_that_the_kernel_ends_for_lack_of_memory_ends_whole_and_the_agent_lives() -> None:
    """Half an engine would hold the GPU's memory; OOMPolicy=kill ends all of the unit (systemd.service(5))."""
    engine, node = unit("synkti-engine.service"), unit("synkti.service")
    assert engine["OOMPolicy"] == ["kill"]
    assert int(node["OOMScoreAdjust"][0]) < 0 < int(engine["OOMScoreAdjust"][0])


def test_the_engine_has_no_credentials_no_capabilities_and_a_read_only_machine() -> None:
    engine = unit("synkti-engine.service")
    assert set(engine["IPAddressDeny"][0].split()) == {"169.254.169.254", "fd00:ec2::254"}
    assert engine["CapabilityBoundingSet"] == engine["AmbientCapabilities"] == [""]
    assert engine["ProtectSystem"] == ["strict"]
    assert "/opt/synkti" in engine["ReadOnlyPaths"][0].split()
    assert engine["ReadWritePaths"] == ["/var/lib/synkti-shared"]
    hidden = {path.removeprefix("-") for path in engine["InaccessiblePaths"][0].split()}
    assert hidden >= {"/etc/synkti", "/var/lib/synkti", "/run/synkti", "/var/log/synkti", "/var/lib/cloud"}
    assert engine["TemporaryFileSystem"] == ["/dev/shm:mode=1777"]
    assert engine["LimitCORE"] == unit("synkti.service")["LimitCORE"] == ["0"]


def test_the_engine_may_do_what_cuda_and_compilers_need() -> None:
    """GPUs by any driver's names, system calls by a list with EPERM in place of a kill, and memory to compile into."""
    engine = unit("synkti-engine.service")
    assert (engine["DevicePolicy"], engine["DeviceAllow"]) == (["closed"], ["char-nvidia* rw"])
    assert "PrivateDevices" not in engine
    assert "MemoryDenyWriteExecute" not in engine, "torch, Triton and numba compile at run time"
    assert "ProcSubset" not in engine, "CUDA reads /proc/driver/nvidia, torch /proc/cpuinfo"
    assert engine["SystemCallFilter"] == ["@system-service", "~@privileged"]
    assert engine["SystemCallErrorNumber"] == ["EPERM"]
    assert "AF_NETLINK" in engine["RestrictAddressFamilies"][0].split(), "NCCL and Gloo list the interfaces"


HARDENED = (
    "NoNewPrivileges", "ProtectHome", "PrivateTmp", "RestrictSUIDSGID", "RestrictNamespaces", "RestrictRealtime",
    "LockPersonality", "ProtectClock", "ProtectControlGroups", "ProtectHostname", "ProtectKernelLogs",
    "ProtectKernelModules", "ProtectKernelTunables", "RemoveIPC",
)  # fmt: skip


@pytest.mark.parametrize("name", ["synkti.service", "synkti-engine.service"])
def test_agent_and_engine_have_few_rights_on_their_machine(name: str) -> None:
    settings = unit(name)
    assert {key: settings.get(key) for key in HARDENED} == {key: ["true"] for key in HARDENED}
    assert settings["ProtectSystem"] == ["strict"]
    assert settings["CapabilityBoundingSet"] == [""]
    assert settings["SystemCallArchitectures"] == ["native"]
    assert settings["UMask"] == ["0007"], "what lies in the shared folder is for both, and for no one else"
    assert settings["StateDirectoryMode"] == ["0700"]
    assert int(settings["TasksMax"][0]) > 0


def test_agent_and_engine_share_one_folder_through_the_engines_group() -> None:
    node, engine = unit("synkti.service"), unit("synkti-engine.service")
    assert node["SupplementaryGroups"] == ["synkti-engine"]
    above, below = node["ExecStartPre"]
    assert above == "+/usr/bin/install -d -o root -g synkti-engine -m 0750 /var/lib/synkti-shared", (
        "no one renames them"
    )
    assert below.startswith("+/usr/bin/install -d -o synkti -g synkti-engine -m 2770 ")
    settings = from_environ(
        {"SYNKTI_MODEL_NAME": "m", "SYNKTI_MODEL_DIR": "d", "SYNKTI_SHARED_DIR": "/var/lib/synkti-shared"}
    )
    assert set(below.split()[-2:]) == {str(settings.kv_dir), str(settings.steps_dir)}
    assert "SYNKTI_SHARED_DIR=/var/lib/synkti-shared" in node["Environment"][0].split()
    assert engine["ReadWritePaths"] == [node["ReadWritePaths"][0].removeprefix("-")]


EXPOSURE = {"synkti.service": 2.0, "synkti-engine.service": 2.0}
"""The most that `systemd-analyze security` may rate them: 0 is no exposure, 10 a service without any restriction."""


@pytest.mark.parametrize("name", EXPOSURE)
def test_systemd_rates_the_exposure_as_low(name: str, tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("no systemd here")
    shutil.copy(BOOT / name, tmp_path)
    bound = str(round(EXPOSURE[name] * 10))
    command = [analyze, "security", "--no-pager", "--offline=true", f"--threshold={bound}", str(tmp_path / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze reads no files")
    assert "Overall exposure level" in done.stdout, done.stderr
    assert done.returncode == 0, done.stdout


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


def test_the_agents_state_is_in_a_folder_of_its_own() -> None:
    assert unit("synkti.service")["StateDirectory"] == ["synkti"]


@pytest.mark.parametrize("name", ["synkti-boot.service", "synkti.service", "synkti-ready.service"])
def test_a_unit_that_fails_for_good_gives_up_the_instance(name: str) -> None:
    assert unit(name)["OnFailure"] == ["synkti-give-up@%N.service"]
    assert unit("synkti-give-up@.service")["ExecStart"][0].endswith("/give-up.sh %i"), "it gets the failed unit's name"


def test_a_node_starts_after_its_boot_also_after_a_restart_of_the_instance() -> None:
    node = unit("synkti.service")
    assert node["Requires"] == ["synkti-boot.service synkti-engine.socket"]
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
