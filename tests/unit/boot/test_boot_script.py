"""boot.sh and install.sh: from a release to an agent, and nothing twice."""

from __future__ import annotations

import shutil

import pytest

from tests.unit.boot.conftest import BOOT, ROOT, Instance, arguments_of

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
    assert released.calls.index(stopped[0]) < released.calls.index(masked)  # masked while it waits, a timer fails
    released.answers("systemctl", 'case "$1" in mask|stop) exit 5;; esac')
    boot(released)  # an image without them


def test_the_engine_compiles_no_sampler_and_keeps_its_kernels_in_one_folder(released: Instance) -> None:
    """FlashInfer's sampler is compiled at each start and needs nvcc, without which the engine ends (vLLM #49497)."""
    boot(released)
    environ = engines_environ(released)
    assert environ["VLLM_USE_FLASHINFER_SAMPLER"] == "0"
    folders = {environ[name] for name in ("VLLM_CACHE_ROOT", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR")}
    assert {folder.rpartition("/")[0] for folder in folders} == {"/var/lib/synkti-engine/compiled"}
    assert "compiled=$root/var/lib/synkti-engine/compiled" in (BOOT / "caches.sh").read_text(), "which it shares"
    assert "curl" not in {call.split()[0] for call in released.calls}, "nothing is fetched where it is off"


def engines_environ(instance: Instance) -> dict[str, str]:
    lines = (instance.root / "etc/synkti/engine.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines)


def override(instance: Instance, unit: str, name: str) -> str | None:
    """Return what boot.sh adds to a unit; None where it adds nothing."""
    path = instance.root / f"run/systemd/system/{unit}.service.d/{name}.conf"
    return path.read_text() if path.exists() else None


def test_the_engine_gets_only_variables_of_its_own(released: Instance) -> None:
    boot(released)
    environ = engines_environ(released)
    assert environ["PATH"].startswith("/opt/synkti/engine/bin:")
    assert environ["HF_HUB_OFFLINE"] == environ["TRANSFORMERS_OFFLINE"] == "1"
    assert not [name for name in environ if name.startswith(("SYNKTI_", "AWS_"))], "it needs nothing of the node"
    assert override(released, "synkti-engine", "metadata") is None


@pytest.mark.parametrize("quote", ["", "'"])
def test_only_an_engine_that_reads_from_s3_may_use_the_nodes_role(released: Instance, quote: str) -> None:
    inner = released.root / "answers/inner"
    inner.write_text(inner.read_text().replace("SYNKTI_MODEL_DIR=%s", f"SYNKTI_MODEL_DIR={quote}s3://models/%s{quote}"))
    output = boot(released)
    assert "its unit may use the instance's metadata" in output
    assert override(released, "synkti-engine", "metadata") == "[Service]\nIPAddressDeny=\n"
    environ = engines_environ(released)
    assert (environ["AWS_REGION"], environ["SYNKTI_ENGINE_METADATA"]) == ("us-east-1", "needed")


def test_after_another_deployment_the_nodes_role_is_denied_again(released: Instance) -> None:
    stale = released.root / "run/systemd/system/synkti-engine.service.d/metadata.conf"
    stale.parent.mkdir(parents=True)
    stale.write_text("[Service]\nIPAddressDeny=\n")
    boot(released)
    assert override(released, "synkti-engine", "metadata") is None


@pytest.mark.parametrize(
    ("total_kib", "agent_mib", "engine_mib"),
    [(16_077_104, 1_536, 13_140), (2_097_152_000, 128_000, 1_918_976), (4_194_304, 1_536, 2_048)],
)
def test_both_units_memory_is_a_share_of_the_instances(
    released: Instance, total_kib: int, agent_mib: int, engine_mib: int
) -> None:
    (released.root / "proc/meminfo").write_text(f"MemTotal:  {total_kib} kB\n")
    boot(released)
    assert override(released, "synkti", "memory") == f"[Service]\nMemoryMax={agent_mib}M\n"
    assert override(released, "synkti-engine", "memory") == f"[Service]\nMemoryMax={engine_mib}M\n"
    calls = released.calls
    assert calls.index("systemctl daemon-reload") < len(calls) - 1, "before the agent is started"


def test_agent_and_engine_are_users_of_their_own(released: Instance) -> None:
    released.answers("id", "exit 1")
    boot(released)
    made = [call for call in released.calls if call.startswith("useradd")]
    assert [call.split()[-1] for call in made] == ["synkti", "synkti-engine"]
    assert all("--system --user-group" in call and "--shell /usr/sbin/nologin" in call for call in made)


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
