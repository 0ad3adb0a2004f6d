"""Systems Manager: run commands on nodes without SSH, and open interactive sessions."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from botocore.exceptions import ClientError

from cli.account import Account
from cli.aws_errors import error_code
from cli.errors import Failed, ToolMissing
from cli.polling import Clock, wait_for

_DOCUMENT = "AWS-RunShellScript"
_TIMEOUT_S = 60.0
_POLL_INTERVAL_S = 1.0
_RUNNING_STATUSES = frozenset({"Pending", "InProgress", "Delayed"})
_INSTALL_URLS = {
    "aws": "https://docs.aws.amazon.com/cli/latest/userguide/getting-started-install.html",
    "session-manager-plugin": (
        "https://docs.aws.amazon.com/systems-manager/latest/userguide/session-manager-working-with-install-plugin.html"
    ),
}


class Commands:
    """Runs commands on nodes. client: boto3's of SSM. Methods raise BotoCoreError and ClientError."""

    def __init__(self, client: Any, clock: Clock) -> None:
        self._client = client
        self._clock = clock

    def run(self, instance_id: str, command: str) -> str:
        """Run a command; return its output, of which SSM stores 24,000 characters. Raises Failed, TimedOut."""
        try:
            sent = self._client.send_command(
                InstanceIds=[instance_id],
                DocumentName=_DOCUMENT,
                Parameters={"commands": [command]},
                TimeoutSeconds=int(_TIMEOUT_S),
            )
        except ClientError as error:
            if error_code(error) in ("InvalidInstanceId", "UnsupportedPlatformType"):
                raise Failed(
                    f"Systems Manager does not know {instance_id}",
                    "its agent registers a minute after the start; --from cloudwatch reads the logs in CloudWatch",
                ) from error
            raise
        command_id = sent["Command"]["CommandId"]
        answer = wait_for(
            lambda: self._result(command_id, instance_id),
            f"the command's answer from {instance_id}",
            within_s=_TIMEOUT_S,
            every_s=_POLL_INTERVAL_S,
            clock=self._clock,
        )
        if answer["Status"] != "Success":
            reason = answer.get("StandardErrorContent", "").strip() or answer.get("StatusDetails", answer["Status"])
            raise Failed(f"the command failed on {instance_id}: {reason}")
        return str(answer.get("StandardOutputContent", ""))

    def _result(self, command_id: str, instance_id: str) -> dict[str, Any] | None:
        try:
            answer: dict[str, Any] = self._client.get_command_invocation(CommandId=command_id, InstanceId=instance_id)
        except ClientError as error:
            if error_code(error) == "InvocationDoesNotExist":  # eventual consistency after SendCommand
                return None
            raise
        return None if answer["Status"] in _RUNNING_STATUSES else answer


def session_command(
    account: Account,
    instance_id: str,
    document: str | None = None,
    parameters: Mapping[str, Sequence[str]] | None = None,
) -> list[str]:
    """Return the aws command that opens a session on a node."""
    command = ["aws", "ssm", "start-session", "--target", instance_id, "--region", account.region]
    if account.profile:
        command += ["--profile", account.profile]
    if document:
        command += ["--document-name", document, "--parameters", json.dumps(parameters or {})]
    return command


def exec_replace(command: Sequence[str], environ: Mapping[str, str]) -> NoReturn:
    """Replace this process by the session. Raises ToolMissing where AWS's programs are not installed."""
    for program, where in _INSTALL_URLS.items():
        if shutil.which(program) is None:
            raise ToolMissing(f"{program} is not installed; sessions on nodes need it", f"install it: {where}")
    os.execvpe(command[0], list(command), dict(environ))  # noqa: S606 # intentionally without a shell
