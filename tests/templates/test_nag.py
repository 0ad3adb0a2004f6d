"""cdk-nag's AwsSolutions rules: what they find is accepted here by name, with a reason, or mended.

A finding that is not in the list fails, and so does an entry that nothing finds any more.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from aws_cdk import App, Validations
from cdk_nag import AwsSolutionsChecks

from app import build
from stacks.settings import FleetSettings

ACCEPTED = {
    "AwsSolutions-S1": "access logs of buckets that only nodes and the deployer use would cost more than they tell",
    "AwsSolutions-SMG4": "rotating the peers' key means restarting every node: an instance refresh, done on purpose",
    "AwsSolutions-VPC7": "flow logs cost per gigabyte; an operator who needs them turns them on for the VPC",
    "AwsSolutions-IAM5": "DescribeInstances knows no resources; tags only on instances of this cluster (by condition); "
    "objects only below named prefixes of named buckets",
    "AwsSolutions-EC26": "the rule cannot read a launch template; test_templates asserts encrypted volumes",
    "AwsSolutions-AS3": "state changes reach the Lambdas through EventBridge, not through notifications of the group",
    "AwsSolutions-L1": "Python 3.13 is what the design names and the dependencies were tested with",
}


def findings(folder: Path) -> set[str]:
    app = App(outdir=str(folder), analytics_reporting=False)
    build(app, FleetSettings(client_cidrs=("203.0.113.0/24",)))
    Validations.of(app).add_plugins(AwsSolutionsChecks())
    with contextlib.suppress(RuntimeError):  # there are findings; the report has them
        app.synth()
    reports = json.loads((folder / "validation-report.json").read_text())["pluginReports"]
    return {violation["ruleName"].partition("[")[0] for report in reports for violation in report["violations"]}


def test_every_finding_is_mended_or_accepted_with_a_reason(tmp_path: Path) -> None:
    assert findings(tmp_path) == set(ACCEPTED)
