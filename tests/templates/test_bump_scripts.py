"""What bump.yml runs: the newest versions, the changes of the pins, the pull request."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
NOW = datetime(2026, 12, 1, tzinfo=UTC)
OLD_ENOUGH, TOO_NEW = "2026-11-20T10:00:00.000000Z", "2026-11-28T10:00:00.000000Z"
IMAGE, NEWER = "ami-0123456789abcdef0", "ami-0fedcba9876543210"


@pytest.fixture
def bump() -> ModuleType:
    specification = importlib.util.spec_from_file_location("github_bump", ROOT / ".github" / "bump.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def checkout(tmp_path: Path, bump: ModuleType) -> Path:
    """The files that have a pin, with an image pinned."""
    for name in (*bump.PINS, "synkti.toml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    file = tmp_path / "synkti.toml"
    file.write_text(file.read_text().replace('# base_image_id = ""', f'base_image_id = "{IMAGE}"'))
    return tmp_path


def index(**releases: str | None) -> dict[str, Any]:
    """PyPI's document: versions with the time of their upload, or None for no files."""
    every = {version.removeprefix("v").replace("_", "."): when for version, when in releases.items()}
    return {
        "releases": {v: [{"upload_time_iso_8601": when, "yanked": False}] if when else [] for v, when in every.items()}
    }


def test_the_newest_version_is_final_old_enough_and_there_for_gpus_and_cpus(bump: ModuleType) -> None:
    gpu = index(v0_9_0=OLD_ENOUGH, v0_32_0=OLD_ENOUGH, v0_33_0=OLD_ENOUGH, v0_34_0=OLD_ENOUGH, v0_35_0=TOO_NEW)
    cpu = index(v0_9_0=OLD_ENOUGH, v0_32_0=OLD_ENOUGH, v0_33_0=OLD_ENOUGH, v0_34_0=None, v0_35_0=OLD_ENOUGH)
    assert bump.newest_version([gpu, cpu], NOW) == "0.33.0"
    assert bump.newest_version([gpu], NOW) == "0.34.0"
    assert bump.newest_version([index(v0_36_0rc1=OLD_ENOUGH)], NOW) == ""
    yanked = {"releases": {"1.0.0": [{"upload_time_iso_8601": OLD_ENOUGH, "yanked": True}]}}
    assert bump.newest_version([yanked], NOW) == ""


def test_every_pin_of_vllm_has_the_same_version(bump: ModuleType) -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", bump.pinned_version(ROOT))


def test_a_newer_vllm_changes_every_pin_and_nothing_else(
    bump: ModuleType, checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {name: (checkout / name).read_text().splitlines() for name in bump.PINS}
    assert bump.main(["vllm", "99.1.0"], checkout) == 0
    assert capsys.readouterr().out == "title=Run vLLM 99.1.0\n"
    assert bump.pinned_version(checkout) == "99.1.0"
    for name, lines in before.items():
        after = (checkout / name).read_text().splitlines()
        assert len([1 for old, new in zip(lines, after, strict=True) if old != new]) == 1, name
    assert "`TESTED`" in (checkout / "bump.md").read_text()
    assert (ROOT / "node_agent/engine_plugin/synkti_engine/__init__.py").read_text().count("TESTED = ") == 1


@pytest.mark.parametrize("version", ["0.1.0", "99.1", "99.1.0rc1", "; rm -rf /"])
def test_a_version_that_is_not_newer_changes_nothing(version: str, bump: ModuleType, checkout: Path) -> None:
    assert bump.main(["vllm", version], checkout) == 1
    assert bump.pinned_version(checkout) == bump.pinned_version(ROOT)


def test_a_pin_that_is_missing_or_differs_is_a_fault(bump: ModuleType, checkout: Path) -> None:
    (checkout / "requirements/engine.in").write_text("vllm[runai]==0.31.0\n")
    with pytest.raises(bump.NotProposable, match="differ"):
        bump.pinned_version(checkout)
    (checkout / "requirements/engine.in").write_text("vllm\n")
    with pytest.raises(bump.NotProposable, match=r"engine\.in has no pin"):
        bump.pinned_version(checkout)


def test_a_newer_image_changes_its_pin_only(bump: ModuleType, checkout: Path) -> None:
    before = (checkout / "synkti.toml").read_text()
    assert bump.main(["image", NEWER], checkout) == 0
    assert (checkout / "synkti.toml").read_text() == before.replace(IMAGE, NEWER)
    assert bump.main(["image", NEWER], checkout) == 1, "it is pinned already"
    assert bump.main(["image", "ubuntu"], checkout) == 1


def test_an_image_is_proposed_only_where_one_is_pinned(
    bump: ModuleType, checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(ROOT / "synkti.toml", checkout / "synkti.toml")
    assert bump.main(["image", NEWER], checkout) == 1
    assert "synkti bootstrap pins it" in capsys.readouterr().err
    assert bump.main([], checkout) == 2


def test_the_script_runs_without_installed_packages() -> None:
    command = [sys.executable, "-S", "-E", str(ROOT / ".github/bump.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "bump: newest, vllm VERSION or image ID\n")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone with a remote, a patch, and a `gh` that writes its arguments down."""

    def git(*words: str, at: Path) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
        subprocess.run(["git", "-C", str(at), *identity, *words], check=True, capture_output=True)

    remote, clone = tmp_path / "remote.git", tmp_path / "clone"
    subprocess.run(["git", "init", "--quiet", "--bare", "--initial-branch=main", str(remote)], check=True)
    subprocess.run(["git", "clone", "--quiet", str(remote), str(clone)], check=True, capture_output=True)
    git("switch", "--create", "main", at=clone)
    (clone / "pin").write_text("1\n")
    git("add", "pin", at=clone)
    git("commit", "--message", "start", at=clone)
    git("push", "origin", "main", at=clone)
    (clone / "pin").write_text("2\n")
    proposal = tmp_path / "proposal"
    proposal.mkdir()
    patch = subprocess.run(["git", "-C", str(clone), "diff"], check=True, capture_output=True).stdout
    (proposal / "change.patch").write_bytes(patch)
    (proposal / "bump.md").write_text("why")
    git("checkout", "pin", at=clone)
    gh = tmp_path / "bin" / "gh"
    gh.parent.mkdir()
    gh.write_text(f'#!/bin/bash\necho "$*" >>{tmp_path}/called\n')
    gh.chmod(0o755)
    return clone


def propose(clone: Path) -> str:
    """Run the script; return what it called `gh` with so far."""
    path = f"{clone.parent / 'bin'}:{os.environ['PATH']}"
    command = ["bash", str(ROOT / ".github/propose.sh"), str(clone.parent / "proposal"), "bump/image-x", "Pin 2"]
    environ = {"PATH": path, "HOME": str(clone.parent)}
    subprocess.run(command, cwd=clone, check=True, env=environ, capture_output=True)
    called = clone.parent / "called"
    return called.read_text() if called.exists() else ""


def test_a_proposal_is_a_branch_a_pull_request_and_a_run_of_ci(clone: Path) -> None:
    called = propose(clone).splitlines()
    folder = clone.parent / "proposal"
    assert called == [
        "auth setup-git",
        f"pr create --base main --head bump/image-x --title Pin 2 --body-file {folder}/bump.md",
        "workflow run ci.yml --ref bump/image-x",
    ]
    shown = ["git", "-C", str(clone.parent / "remote.git"), "show", "bump/image-x:pin"]
    assert subprocess.run(shown, check=True, capture_output=True, text=True).stdout == "2\n"


def test_what_was_proposed_before_is_not_proposed_again(clone: Path) -> None:
    """Also if the pull request was closed: its branch is the answer until somebody deletes it."""
    first = propose(clone)
    subprocess.run(["git", "-C", str(clone), "reset", "--hard", "origin/main"], check=True, capture_output=True)
    assert propose(clone) == first


def test_what_finds_a_version_may_not_write_and_what_writes_runs_nothing_of_it() -> None:
    workflow = (ROOT / ".github/workflows/bump.yml").read_text()
    jobs = re.split(r"^  (?=[\w-]+:$)", workflow.partition("\njobs:\n")[2], flags=re.MULTILINE)[1:]
    assert [job.partition(":")[0] for job in jobs] == ["image", "propose-image", "vllm", "propose-vllm"]
    for job in jobs:
        writes = bool(re.search(r"^      (contents|pull-requests|actions): write", job, re.MULTILINE))
        assert writes == job.startswith("propose"), job
        assert ("bump.py" in job or "make " in job) != writes, job
