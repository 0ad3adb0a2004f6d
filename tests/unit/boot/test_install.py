"""Packages: from the wheelhouse in the bucket, with uv itself; without one from outside, with stand-ins."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from node_agent.contract.wheelhouse import PREFIX, package_sets
from tests.unit.boot.conftest import BOOT, ROOT, Instance
from tests.unit.boot.wheelhouse import VERSION, Wheelhouse, make_wheelhouse

# The part of `aws s3` that the script calls, on a folder: exit code 1 where nothing is listed, as the real one.
BUCKET = """
path={bucket}/$(echo "${{@: -2:1}}" | sed 's|s3://[^/]*/||')
case "$1 $2" in
  "s3 ls") [ -e "{bucket}/${{3#s3://*/}}" ] && echo found || exit 1 ;;
  "s3 cp") cp -r "$path." "${{@: -1}}" ;;
esac
"""


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Wheelhouse:
    return make_wheelhouse(tmp_path_factory.mktemp("small"))


HEADERS = Path(sysconfig.get_path("include"), "Python.h")


@pytest.fixture
def release(instance: Instance, small: Wheelhouse) -> Path:
    if not HEADERS.exists():
        pytest.skip("the tests' Python, which stands in for the nodes', has no headers: install python3-dev")
    folder = instance.root / "opt/synkti/releases/one"
    shutil.copytree(small.requirements, folder / "requirements")
    instance.variables["UV_PYTHON_DOWNLOADS_JSON_URL"] = str(small.downloads)
    # Whatever the script asks a package index for would come from nowhere.
    instance.variables.update({"UV_INDEX_URL": "http://127.0.0.1:9/", "PIP_INDEX_URL": "http://127.0.0.1:9/"})
    return folder


@pytest.fixture
def bucket(instance: Instance, small: Wheelhouse) -> Path:
    folder = instance.root / "bucket"
    small.store(folder)
    instance.answers("aws", BUCKET.format(bucket=folder))
    return folder


def install(instance: Instance, release: Path) -> subprocess.CompletedProcess[str]:
    return instance.run("install.sh", str(release))


def import_from(instance: Instance, name: str, code: str) -> str:
    python = instance.root / "opt/synkti" / name / "bin/python"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout


def test_a_node_installs_everything_from_its_bucket(instance: Instance, release: Path, bucket: Path) -> None:
    done = install(instance, release)
    assert done.returncode == 0, done.stdout + done.stderr
    assert import_from(instance, "agent", "import a_client; print(a_client.ANSWER)") == "42\n"
    assert import_from(instance, "engine", "import an_engine; print(an_engine.ANSWER)") == "43\n"
    assert (instance.root / f"opt/synkti/python/cpython-{VERSION}-linux-x86_64-gnu/bin/python3").is_file()
    assert import_from(instance, "agent", "import platform; print(platform.python_version())").strip() == VERSION
    assert "from outside" not in done.stdout
    assert {call.split()[0] for call in instance.calls} <= {"aws", "mountpoint"}
    assert not list((instance.root / "opt/synkti/packages").iterdir()), "wheels of 4 GB do not stay"


UNSHARE = ["unshare", "--map-root-user", "--net"]
has_namespaces = shutil.which("unshare") and subprocess.run([*UNSHARE, "true"], capture_output=True, check=False)


@pytest.mark.skipif(not has_namespaces or has_namespaces.returncode != 0, reason="this kernel allows no namespaces")
def test_a_node_without_any_network_installs_everything(instance: Instance, release: Path, bucket: Path) -> None:
    """In a network namespace of its own, which has not even a loopback device; S3 is a folder."""
    done = instance.shell("-c", shlex.join(["exec", *UNSHARE, "bash", str(BOOT / "install.sh"), str(release)]))
    assert done.returncode == 0, done.stdout + done.stderr
    assert import_from(instance, "engine", "import an_engine; print(an_engine.ANSWER)") == "43\n"


def test_a_second_boot_asks_for_nothing(instance: Instance, release: Path, bucket: Path) -> None:
    assert install(instance, release).returncode == 0
    before = len(instance.calls)
    shutil.rmtree(bucket)
    assert install(instance, release).returncode == 0
    assert [call for call in instance.calls[before:] if call.startswith("aws")] == []


def test_only_the_set_with_a_new_lock_file_is_fetched_again(instance: Instance, release: Path, bucket: Path) -> None:
    assert install(instance, release).returncode == 0
    before = len(instance.calls)
    lock = release / "requirements/agent.txt"
    lock.write_text(lock.read_text() + "# another release\n")
    sets = package_sets(lambda name: (release / "requirements" / name).read_bytes())
    (old,) = bucket.glob(f"{PREFIX}agent-*")
    old.rename(bucket / sets[1].prefix)
    assert install(instance, release).returncode == 0
    copied = [call for call in instance.calls[before:] if "s3 cp" in call]
    assert [re.findall("agent-|engine-|tools-", call) for call in copied] == [["agent-"]]


@pytest.mark.parametrize("pattern", ["agent-*/*.whl", "engine-*/*.whl", "tools-*/*.whl", "tools-*/*/cpython-*"])
def test_an_altered_file_of_the_bucket_is_refused(
    pattern: str, instance: Instance, release: Path, bucket: Path
) -> None:
    """By the hashes of the release, whose own hash is in the launch template; a manifest beside it proves nothing."""
    (altered,) = bucket.glob(PREFIX + pattern)
    altered.write_bytes(altered.read_bytes() + b"\0")
    done = install(instance, release)
    assert done.returncode == 65, "which is not retried"
    assert "synkti wheelhouse --replace makes it again" in done.stdout
    assert not (instance.root / "opt/synkti/engine").exists()


def test_a_missing_wheel_is_not_looked_for_elsewhere(instance: Instance, release: Path, bucket: Path) -> None:
    (wheel,) = bucket.glob(f"{PREFIX}engine-*/*.whl")
    wheel.unlink()
    assert install(instance, release).returncode == 65


def test_an_unavailable_bucket_is_waited_for_and_is_no_missing_wheelhouse(instance: Instance, release: Path) -> None:
    """exit code 254 of the AWS CLI: no credentials, no permission, no answer."""
    instance.answers("aws", "exit 254")
    done = install(instance, release)
    assert done.returncode == 69, "synkti-boot.service retries"
    assert len([call for call in instance.calls if "s3 ls" in call]) == 4
    assert "from outside" not in done.stdout


def test_an_interrupted_copy_is_retried_by_the_unit(instance: Instance, release: Path, bucket: Path) -> None:
    instance.answers("aws", f'case "$2" in cp) exit 1;; esac\n{BUCKET.format(bucket=bucket)}')
    assert install(instance, release).returncode == 69


def test_an_image_without_a_compiler_is_refused_before_anything_is_downloaded(
    instance: Instance, release: Path
) -> None:
    programs = instance.root / "programs"
    for name in ("bash", "cat", "cut", "dirname", "mkdir"):
        (programs / name).symlink_to(shutil.which(name) or "")
    for name in ("cc", "gcc"):
        (programs / name).unlink(missing_ok=True)
    environ = {**instance.variables, "PATH": str(programs), "SYNKTI_ROOT": str(instance.root), "CALLS": "/dev/null"}
    done = subprocess.run(
        [shutil.which("bash") or "", str(BOOT / "install.sh"), str(release)],
        env={**environ, "ANSWERS": str(instance.root / "answers")}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "no C compiler" in done.stdout


def test_the_pin_of_python_is_that_of_the_pinned_uv(tmp_path: Path, small: Wheelhouse) -> None:
    """uv knows the SHA-256 of each archive, and prints it where a file differs; no network is needed."""
    digest, _, path = (ROOT / "requirements/python.txt").read_text().strip().partition("  ")
    other = tmp_path / path
    other.parent.mkdir()
    shutil.copy(small.archive, other)  # an archive, but not this one
    version = path.partition("cpython-")[2].partition("+")[0]
    command = [str(Path(sys.executable).with_name("uv")), "python", "install", "--offline", "--no-bin"]
    environ = {**os.environ, "UV_PYTHON_INSTALL_DIR": str(tmp_path / "installed"), "UV_NO_CONFIG": "1"}
    command += ["--mirror", f"file://{tmp_path}", f"cpython-{version}-linux-x86_64-gnu"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ)
    assert done.returncode == 1
    assert digest in done.stderr
    assert version.startswith("3.12."), "which the engine's lock file was compiled for"
