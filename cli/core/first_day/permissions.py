"""Decide whether a node may tag itself, and nothing else.

The node sends EC2 dry runs: EC2 evaluates the permission, changes nothing, and answers with an error in both cases.

Source: Amazon EC2's API reference, the parameter DryRun: `DryRunOperation` where the request would have succeeded,
`UnauthorizedOperation` where the permission is missing.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping

from cli.core.first_day.report import StepResult, failed, not_run, passed
from node_agent.contract.tags import STATE_TAG

OWN, OTHER, OTHER_DELETE, OWN_NAME = "own", "other", "other-delete", "own-name"
_ALLOWED, _REFUSED = "DryRunOperation", "UnauthorizedOperation"
_EXPECTED = {OWN: _ALLOWED, OTHER: _REFUSED, OTHER_DELETE: _REFUSED, OWN_NAME: _REFUSED}
_MEANING = {
    OWN: "its own SynktiState",
    OTHER: "another node's SynktiState",
    OTHER_DELETE: "the deletion of another node's SynktiState",
    OWN_NAME: "another tag of its own (Name)",
}
_LINE = re.compile(r"^(own|other|other-delete|own-name) .*?\((\w+(?:\.\w+)*)\)", re.MULTILINE)
_ADVICE = "compare the statement TagItself of the nodes' role with docs/security.md, and report this"


def tag_script(region: str, own: str, other: str | None) -> str:
    """Return the shell script that a node runs: one line for each request, with AWS's answer.

    Args:
        region: of the fleet.
        own: the id of the instance that runs it.
        other: of another node; None where there is none.
    """
    requests = {
        OWN: ("create-tags", own, f"Key={STATE_TAG},Value=ready"),
        OWN_NAME: ("create-tags", own, "Key=Name,Value=x"),
    }
    if other is not None:
        requests[OTHER] = ("create-tags", other, f"Key={STATE_TAG},Value=ready")
        requests[OTHER_DELETE] = ("delete-tags", other, f"Key={STATE_TAG}")
    lines = [f"export AWS_DEFAULT_REGION={shlex.quote(region)}"]
    for name, (verb, instance_id, tag) in requests.items():
        command = shlex.join(["aws", "ec2", verb, "--dry-run", "--resources", instance_id, "--tags", tag])
        lines.append(f"printf '%s %s\\n' {name} \"$({command} 2>&1 | tr '\\n' ' ')\"")
    return "\n".join(lines)


def parse_answers(output: str) -> dict[str, str]:
    """Return AWS's error code of each request that has one. output: the script's."""
    return {found[1]: found[2] for found in _LINE.finditer(output)}


def judge_tags(answers: Mapping[str, str], *, has_other: bool) -> StepResult:
    """Decide from EC2's answers. has_other: whether another node was there to be tagged."""
    facts = {
        f"{name}_answer".replace("-", "_"): answers.get(name)
        for name in _EXPECTED
        if has_other or name in (OWN, OWN_NAME)
    }
    sent = [name for name in _EXPECTED if has_other or not name.startswith(OTHER)]
    wrong = [name for name in sent if answers.get(name) != _EXPECTED[name]]
    unknown = [name for name in wrong if answers.get(name) not in (_ALLOWED, _REFUSED)]
    if unknown:
        got = ", ".join(f"{_MEANING[name]}: {answers.get(name, 'no answer')}" for name in unknown)
        return failed(f"EC2 did not evaluate the requests ({got})", "run the step again; synkti connect NODE", **facts)
    if OWN in wrong:
        return failed("a node may not tag itself: its peers cannot find it by tags", _ADVICE, **facts)
    if wrong:
        return failed(f"a node may change {' and '.join(_MEANING[name] for name in wrong)}", _ADVICE, **facts)
    if not has_other:
        return not_run("there is one node: it may tag itself, and no other was there to try", "nodes = 2", **facts)
    return passed("a node may write its own tags; those of another node, and others of its own, are refused", **facts)
