"""`make checkov`: run checkov on the templates, in an environment of its own that is created on demand and cached.

Every finding is either fixed or accepted here by name, with a reason. A finding that is not in the list fails the
check, and so does an entry of the list without a finding.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checks.assemblies import EVERYTHING, synthesize
from local.cache import build_once, require_space
from local.errors import LocalRunError, UserActionRequired

LOCK = Path(__file__).parent.parent / "requirements" / "checkov.txt"
_NEEDED_GIB = 0.5
_TIMEOUT_S = 300

_OWN_KEY = "a customer's own KMS key costs a dollar a month plus requests, and restricts no more than IAM does; "
ACCEPTED = {
    "CKV_AWS_111": "the writes without a resource are the SSM agent's and our namespace's metrics; docs/security.md",
    "CKV_AWS_115": "reserved concurrency reduces the account's; EventBridge retries throttled events",
    "CKV_AWS_116": "CloudFormation waits for the function of a custom resource; a lost request fails the deployment",
    "CKV_AWS_117": "the Lambdas call only AWS's public endpoints; in a VPC they would need a NAT gateway for that",
    "CKV_AWS_119": _OWN_KEY + "the table is encrypted with DynamoDB's",
    "CKV_AWS_149": _OWN_KEY + "the secret is encrypted with Secrets Manager's",
    "CKV_AWS_158": _OWN_KEY + "logs hold no prompts and no answers",
    "CKV_AWS_173": _OWN_KEY + "the Lambdas' variables are names, not secrets",
    "CKV_AWS_18": "access logs of buckets that only nodes and the deployer use would cost more than they are worth",
    "CKV_AWS_21": "checkpoints expire within a week and are written once; models are versioned",
    "CKV_AWS_26": _OWN_KEY + "notifications contain only the alarm's name, and an alarm cannot use SNS's own key",
    "CKV_AWS_27": "the queues are encrypted with SQS's own key (SqsManagedSseEnabled), which this check ignores",
    "CKV_AWS_88": "a public address instead of a NAT gateway; the security group admits client_cidrs only",
    "CKV_AWS_91": "a network load balancer logs TLS handshakes only; nodes log their requests",
}


@dataclass(frozen=True)
class Finding:
    """A failed check of checkov."""

    check: str
    title: str
    resource: str


def main() -> int:
    """Run the check. Returns 0 if there are only accepted findings, 1 if not, 2 if checkov cannot be installed here."""
    try:
        report = run(ensure_checkov())
    except LocalRunError as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, UserActionRequired) else 1
    found = findings(report)
    complaints = violations(found, ACCEPTED)
    summary = report["summary"]
    print(f"checkov {summary['checkov_version']}: {summary['resource_count']} resources, {summary['passed']} passed")
    for check, reason in sorted(ACCEPTED.items()):
        where = [each.resource for each in found if each.check == check]
        print(f"  accepted {check} at {len(where)}: {reason}")
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    return 1 if complaints else 0


def findings(report: Mapping[str, Any]) -> list[Finding]:
    """Return the failed checks of checkov's JSON report. Raises LocalRunError where it could not parse a template."""
    if report["summary"]["parsing_errors"]:
        raise LocalRunError(f"checkov cannot parse {report['results']['parsing_errors']}")
    failed = report["results"]["failed_checks"]
    return [Finding(each["check_id"], each["check_name"], each["resource"]) for each in failed]


def violations(found: Iterable[Finding], accepted: Mapping[str, str]) -> list[str]:
    """Return a message for each finding that is not accepted, and for each accepted entry without a finding."""
    found = list(found)
    new = [f"{each.check} at {each.resource}: {each.title}" for each in found if each.check not in accepted]
    checks = {each.check for each in found}
    return new + [
        f"{check} is accepted, but there is no such finding any more" for check in accepted if check not in checks
    ]


def ensure_checkov() -> Path:
    """Return the environment's folder; create it if needed. Raises UserActionRequired."""
    digest = hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]
    return build_once(f"checkov-{digest}-py{sys.version_info.major}.{sys.version_info.minor}", _install)


def run(environment: Path) -> dict[str, Any]:
    """Return checkov's report on the templates with every feature turned on. No request goes to the network."""
    with tempfile.TemporaryDirectory() as folder:
        synthesize(Path(folder), EVERYTHING)
        command = [str(environment / "bin" / "checkov"), "--directory", folder, "--framework", "cloudformation"]
        command += ["--skip-download", "--compact", "--quiet", "--output", "json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    try:
        report: dict[str, Any] = json.loads(done.stdout)
    except json.JSONDecodeError as error:
        raise LocalRunError(f"checkov gave no report: {(done.stderr or done.stdout).strip()[-500:]}") from error
    return report


def _install(folder: Path) -> None:
    require_space(_NEEDED_GIB)
    print(f"checkov: a new environment in {folder}", flush=True)
    _run_step([sys.executable, "-m", "venv", "--without-pip", str(folder)])
    uv, python = str(Path(sys.executable).parent / "uv"), str(folder / "bin" / "python")
    _run_step([uv, "pip", "install", "--quiet", "--python", python, "--require-hashes", "--requirement", str(LOCK)])


def _run_step(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_TIMEOUT_S)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        last_line = (str(error.stderr or "").strip() or "no output").splitlines()[-1]
        message = f"checkov cannot be installed; check the network and run again ({last_line})"
        raise UserActionRequired(message) from error


if __name__ == "__main__":
    sys.exit(main())
