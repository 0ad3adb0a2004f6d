"""The workflows' own scripts: settings read from synkti.toml, the diff of a pull request, the verification."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped] # a dependency of cfn-lint, without types

from checks.assemblies import EVERYTHING, IMAGE_ID, SHIPPED, Synthesized, synthesize
from stacks.base_image import GPU_AMI_PARAMETER

ROOT = Path(__file__).parents[2]
HERE = {"GITHUB_REPOSITORY": "acme/models", "GITHUB_REF": "refs/heads/main"}


@pytest.fixture
def settings_script() -> ModuleType:
    specification = importlib.util.spec_from_file_location("github_settings", ROOT / ".github" / "settings.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_the_workflow_reads_its_account_and_roles_from_the_settings(settings_script: ModuleType) -> None:
    assert settings_script.outputs(EVERYTHING, HERE) == {
        "wanted": "true",
        "region": "us-east-1",
        "deployer": "arn:aws:iam::123456789012:role/synkti-github-deployer",
        "minutes": "360",
        "session_seconds": "21600",
        "watcher": "arn:aws:iam::123456789012:role/synkti-github-watcher",
        "image": IMAGE_ID,
        "image_parameter": GPU_AMI_PARAMETER,
    }
    assert settings_script.outputs(replace(EVERYTHING, base_image_id=""), HERE)["watcher"] == "", "nothing to compare"
    assert settings_script.outputs(EVERYTHING, {**HERE, "GITHUB_REPOSITORY": "somebody/models"})["watcher"] == ""


@pytest.mark.parametrize(
    ("repository", "environ"),
    [
        ("", HERE),
        ("acme/models", {}),
        ("acme/models", {**HERE, "GITHUB_REPOSITORY": "somebody/models"}),
        ("acme/models", {**HERE, "GITHUB_REF": "refs/heads/feature"}),
        ("acme/models", {**HERE, "GITHUB_REF": "refs/tags/main"}),
    ],
)
def test_another_repository_or_branch_deploys_nothing(
    repository: str, environ: dict[str, str], settings_script: ModuleType
) -> None:
    settings = replace(EVERYTHING, github_repository=repository)
    assert settings_script.outputs(settings, environ)["wanted"] == "false"
    assert settings_script.outputs(SHIPPED, HERE)["wanted"] == "false"


def test_a_repository_with_the_secret_deploys_with_its_own_role(settings_script: ModuleType) -> None:
    elsewhere = replace(EVERYTHING, github_repository="", github_owner_id="", github_repository_id="", account="")
    given = {**HERE, "ROLE_GIVEN": "true"}
    assert settings_script.outputs(elsewhere, given)["wanted"] == "true"
    assert settings_script.outputs(elsewhere, {**HERE, "ROLE_GIVEN": "false"})["wanted"] == "false"
    assert settings_script.outputs(elsewhere, {**given, "GITHUB_REF": "refs/heads/feature"})["wanted"] == "false"
    with pytest.raises(settings_script.NotDeployable, match="set region"):
        settings_script.outputs(replace(elsewhere, region=""), given)


def test_the_secret_takes_precedence_over_the_role_of_the_settings() -> None:
    workflow = (ROOT / ".github/workflows/deploy.yml").read_text()
    assert "role-to-assume: ${{ secrets.AWS_ROLE_ARN || needs.settings.outputs.deployer }}" in workflow
    assert "ROLE_GIVEN: ${{ secrets.AWS_ROLE_ARN != '' }}" in workflow


def test_the_time_of_a_deployment_grows_with_the_fleet_up_to_what_github_allows(
    settings_script: ModuleType, everything: Synthesized
) -> None:
    def minutes(nodes: int, **changes: Any) -> int:
        return int(settings_script.outputs(replace(SHIPPED, nodes=nodes, **changes), HERE)["minutes"])

    assert [minutes(nodes) for nodes in (1, 3, 9, 100)] == [63, 129, 327, 360]
    assert minutes(100, ready_within_s=600) == 160
    assert minutes(9, refresh_healthy_percent=50) == 129, "four at a time"
    outputs = settings_script.outputs(replace(SHIPPED, nodes=9), {**HERE, "ROLE_GIVEN": "false"})
    assert outputs["session_seconds"] == str(327 * 60)
    given = settings_script.outputs(replace(SHIPPED, region="us-east-1"), {**HERE, "ROLE_GIVEN": "true"})
    assert given["session_seconds"] == "3600", "what a role has that nobody has changed"
    roles = everything.resources("AWS::IAM::Role").values()
    (session,) = [
        role["Properties"]["MaxSessionDuration"]
        for role in roles
        if role["Properties"].get("RoleName") == "synkti-github-deployer"
    ]
    assert session == 21_600, "AWS refuses a session that is longer than the role's"


def test_numbers_of_another_repository_are_a_fault_that_names_the_right_ones(settings_script: ModuleType) -> None:
    """As after a fork: AWS would refuse the token, and say no more than that."""
    ids = {"GITHUB_REPOSITORY_OWNER_ID": "4321", "GITHUB_REPOSITORY_ID": "987654321"}
    assert settings_script.outputs(EVERYTHING, {**HERE, **ids})["wanted"] == "true"
    forked = {**HERE, **ids, "GITHUB_REPOSITORY_ID": "5"}
    with pytest.raises(settings_script.NotDeployable, match='github_owner_id = "4321", github_repository_id = "5"'):
        settings_script.outputs(EVERYTHING, forked)
    assert settings_script.outputs(EVERYTHING, {**forked, "ROLE_GIVEN": "true"})["wanted"] == "true"
    unknown = replace(EVERYTHING, github_owner_id="", github_repository_id="")
    assert settings_script.outputs(unknown, forked)["wanted"] == "true", "a repository of before needs none"
    assert "github_repository_id" in settings_script.id_problem(unknown, forked)


def test_the_settings_script_runs_without_installed_packages() -> None:
    """With the interpreter alone, without site-packages."""
    done = subprocess.run(
        [sys.executable, "-S", "-E", str(ROOT / ".github/settings.py")],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": os.environ["PATH"]},
    )
    assert done.stdout.splitlines()[0] == "wanted=false"


def diff(before: Path, after: Path, home: Path, root: Path = ROOT) -> str:
    quiet = {"PATH": os.environ["PATH"], "HOME": str(home), "JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION": "1"}
    command = [str(root / ".github/diff.sh"), str(before), str(after)]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=quiet).stdout


def test_a_diff_shows_the_changed_resources_without_an_account(production: Synthesized, tmp_path: Path) -> None:
    changed = synthesize(tmp_path / "change", replace(SHIPPED, nodes=5))
    base = shutil.copytree(production.folder, tmp_path / "base")
    (base / "synkti-old.template.json").write_text('{"Resources": {}}')
    comment = diff(base, changed.folder, tmp_path)
    assert "Stack synkti-old is gone from the app; it stays deployed" in comment
    assert comment.startswith("### What this would change\n```\n")
    assert comment.endswith("```\n")
    fleet = comment.partition("Stack synkti-fleet\n")[2].partition("Stack synkti-state")[0]
    assert re.search(r"DesiredCapacity\n.*\[-\] 3\n.*\[\+\] 5\n", fleet)
    assert comment.count("There were no differences") == 3


def assert_cut(comment: str) -> None:
    assert len(comment) < 65_536
    assert re.search(r"^\.\.\. and \d+ characters more$", comment, re.MULTILINE)


def test_a_long_diff_is_cut_to_the_size_limit_of_a_comment(production: Synthesized, tmp_path: Path) -> None:
    (tmp_path / ".github").mkdir()
    shutil.copy(ROOT / ".github/diff.sh", tmp_path / ".github")
    cdk = tmp_path / "node_modules/.bin/cdk"
    cdk.parent.mkdir(parents=True)
    cdk.write_text("#!/bin/bash\nprintf '[+] AWS::EC2::Instance %s\\n' $(seq 1000)\n")
    cdk.chmod(0o755)
    comment = diff(production.folder, production.folder, tmp_path, tmp_path)
    assert "Stack synkti-events\n[+] AWS::EC2::Instance 1\n" in comment
    assert_cut(comment)


@pytest.mark.long  # the CDK's command line compares six stacks, for two seconds each
def test_a_long_diff_of_the_cdk_is_cut_too(production: Synthesized, everything: Synthesized, tmp_path: Path) -> None:
    assert_cut(diff(production.folder, everything.folder, tmp_path))


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a checkout whose command line is a stub that records its arguments."""
    (tmp_path / ".github").mkdir()
    shutil.copy(ROOT / ".github/verify.sh", tmp_path / ".github")
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(
        f'#!/bin/bash\nif [ "$1" = -c ]; then exec {sys.executable} "$@"; fi\n'
        f'echo "$*" >{tmp_path}/called\ncat {tmp_path}/answer\nexit $(cat {tmp_path}/status)\n'
    )
    python.chmod(0o755)
    (tmp_path / "answer").write_text('{"nodes": []}')
    (tmp_path / "status").write_text("0")
    return tmp_path


def verify(checkout: Path, outputs: dict[str, dict[str, str]]) -> subprocess.CompletedProcess[str]:
    (checkout / "outputs.json").write_text(json.dumps(outputs))
    command = ["bash", str(checkout / ".github/verify.sh"), str(checkout / "outputs.json")]
    return subprocess.run(command, capture_output=True, text=True, check=False)


OUTPUTS = {"synkti-state": {"TableName": "t"}, "synkti-fleet": {"FleetVersion": "0123456789ab"}}


def test_verification_waits_for_every_node_on_the_deployed_version(checkout: Path) -> None:
    done = verify(checkout, OUTPUTS)
    assert done.returncode == 0, done.stderr
    assert (checkout / "called").read_text() == "-m cli nodes --wait --version 0123456789ab --json\n"
    assert "ready on version `0123456789ab`" in done.stdout
    assert '{"nodes": []}' in done.stdout
    balanced = {**OUTPUTS, "synkti-fleet": {**OUTPUTS["synkti-fleet"], "Endpoint": "https://fleet"}}
    assert "answers at https://fleet" in verify(checkout, balanced).stdout


def test_a_stopped_fleet_is_not_reported_as_verified(checkout: Path) -> None:
    (checkout / "answer").write_text('{"desired": 0, "nodes": []}')
    done = verify(checkout, OUTPUTS)
    assert done.returncode == 0
    assert "Every node is ready" not in done.stdout
    assert "Deployed, and stopped" in done.stdout
    assert "::warning::the fleet is stopped" in done.stderr


def test_nodes_that_do_not_become_ready_fail_the_deployment(checkout: Path) -> None:
    (checkout / "status").write_text("1")
    assert verify(checkout, OUTPUTS).returncode == 1


def test_a_deployment_without_a_version_fails(checkout: Path) -> None:
    done = verify(checkout, {"synkti-state": {}})
    assert done.returncode == 1
    assert "which version" in done.stderr
    assert not (checkout / "called").exists()


MARK = "<!-- synkti: what this would change -->"
BOT, PERSON = {"login": "github-actions[bot]"}, {"login": "ann"}


def test_a_push_whose_tests_fail_is_not_deployed() -> None:
    """The tests ran beside the deployment, which did not wait for them."""
    deploy = yaml.safe_load((ROOT / ".github/workflows/deploy.yml").read_text())["jobs"]
    assert deploy["tests"]["uses"] == "./.github/workflows/ci.yml"
    assert "tests" in deploy["deploy"]["needs"]
    condition = deploy["deploy"]["if"]
    assert not {"always()", "!cancelled()", "failure()"} & set(condition.split()), "it would not wait for their success"
    # A bare `on` is a boolean in YAML 1.1.
    triggers = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())[True]
    assert set(triggers) == {"pull_request", "workflow_dispatch", "workflow_call"}, "once for each push"


def comment(folder: Path, held: list[dict[str, Any]]) -> list[str]:
    """Run the step that comments on a pull request, with a substitute for gh; return what gh was called with."""
    workflow = yaml.safe_load((ROOT / ".github/workflows/deploy.yml").read_text())
    (step,) = [each for each in workflow["jobs"]["comment"]["steps"] if "run" in each]
    assert step["env"]["MARK"] == MARK
    (folder / "comments.json").write_text(json.dumps(held))
    (folder / "diff.md").write_text("### What this would change\n")
    gh = folder / "gh"
    gh.write_text('#!/bin/bash\necho "$*" >>calls\n[ "$2" != --paginate ] || jq --raw-output "$5" comments.json\n')
    gh.chmod(0o755)
    environ = {"PATH": f"{folder}:{os.environ['PATH']}", "MARK": MARK, "NUMBER": "7", "REPOSITORY": "acme/models"}
    subprocess.run(["bash", "-e", "-c", step["run"]], cwd=folder, env=environ, check=True)
    assert (folder / "comment.md").read_text() == f"{MARK}\n### What this would change\n"
    return (folder / "calls").read_text().splitlines()[1:]


@pytest.mark.skipif(shutil.which("jq") is None, reason="gh's own jq is replaced by jq, which is not installed")
def test_a_diff_replaces_its_own_comment_and_no_other(tmp_path: Path) -> None:
    others = [
        {"id": 1, "user": PERSON, "body": f"{MARK} quoted"},
        {"id": 3, "user": BOT, "body": "another workflow's"},
    ]
    new = "pr comment 7 --repo acme/models --body-file comment.md"
    for folder in (tmp_path / "none", tmp_path / "own"):
        folder.mkdir()
    assert comment(tmp_path / "none", others) == [new]
    own = {"id": 2, "user": BOT, "body": f"{MARK}\nof before"}
    patch = "api --silent --method PATCH repos/acme/models/issues/comments/2 --field body=@comment.md"
    assert comment(tmp_path / "own", [own, *others]) == [patch]
