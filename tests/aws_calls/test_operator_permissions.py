"""The page of permissions that an operator needs, against the calls of the command line in the source."""

from __future__ import annotations

import re
from itertools import product

from tests.aws_calls.authorization import actions_of
from tests.aws_calls.recording import ROOT
from tests.aws_calls.source_calls import operation_names, sites
from tests.aws_calls.test_calls import SOURCES

PAGE = ROOT / "docs" / "gitops.md"
NOT_BY_BOTO3 = {
    "ssm:StartSession": "the aws command opens sessions",
    "sts:AssumeRole": "the CDK's command line deploys by its own roles",
}
SHARED = frozenset({"node_agent/adapters/model_store.py", "lambdas/adapters/autoscaling.py"})
"""Adapters of the agent and of the Lambdas that the command line uses, too."""

AMBIGUOUS = {"DeleteTags": "ec2"}
"""Operations that two services have, and whose is called."""

IN_A_BUILD = frozenset({"cli/hub_job.py"})
"""What runs with the build's role: test_role_permissions.py."""


def documented() -> set[str]:
    """Return the actions in the table: `service:Action`, or `service:{One,Other}` and `service:Describe{One,Other}`."""
    table = PAGE.read_text().partition("## What your own credentials need")[2]
    found = set()
    for text in re.findall(r"`([a-z0-9]+:[A-Za-z{},]+)`", table):
        service, _, action = text.partition(":")
        pieces = [piece.split(",") for piece in re.split(r"[{}]", action)]
        found |= {f"{service}:{''.join(each)}" for each in product(*pieces)}
    return found


def test_the_page_has_the_actions_of_each_call_and_no_other() -> None:
    every = [
        *sites("cli", sorted(SOURCES["cli"])),
        *sites("node_agent", ["s3"]),
        *sites("lambdas", ["autoscaling"]),
    ]
    used = [
        site
        for site in every
        if site.module in SHARED or (site.module.startswith("cli/") and site.module not in IN_A_BUILD)
    ]
    needed = {action for site in used for operation in site.operations for action in _actions(operation)}
    assert needed - documented() == set(), "called, and not on the page"
    assert documented() - needed == set(NOT_BY_BOTO3), "on the page, and not called"


def _actions(operation: str) -> tuple[str, ...]:
    services = [each for each in SOURCES["cli"] if operation in operation_names(each)]
    (service,) = [AMBIGUOUS[operation]] if operation in AMBIGUOUS else services
    return actions_of(service, operation)
