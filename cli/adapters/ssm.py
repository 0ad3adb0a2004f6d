"""Systems Manager: commands on nodes without SSH, and the programs that interactive sessions need here."""

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

_RUN = "AWS-RunShellScript"
_WITHIN_S = 60.0
_EVERY_S = 1.0
_UNDER_WAY = frozenset({"Pending", "InProgress", "Delayed"})
_INSTALL = {
    "aws": "https://docs.aws.amazon.com/cli/latest/userguide/getting-started-install.html",
    "session-manager-plugin": (
        "https://docs.aws.amazon.com/systems-manager/latest/userguide/session-manager-working-with-install-plugin.html"
    ),
}


class Commands:
    """client: boto3's of SSM. Raises BotoCoreError and ClientError."""

    def __init__(self, client: Any, clock: Clock) -> None:
        self._client = client
        self._clock = clock

    def run(self, instance_id: str, command: str) -> str:
        """What the command printed on the node; SSM gives the first 24,000 characters. Raises Failed, TimedOut."""
        try:
            sent = self._client.send_command(
                InstanceIds=[instance_id],
                DocumentName=_RUN,
                Parameters={"commands": [command]},
                TimeoutSeconds=int(_WITHIN_S),
            )
        except ClientError as error:
            if error_code(error) in ("InvalidInstanceId", "UnsupportedPlatformType"):
                raise Failed(
                    f"Systems Manager does not know {instance_id}",
                    "its agent registers a minute after the start; --from cloudwatch reads what was sent there",
                ) from error
            raise
        command_id = sent["Command"]["CommandId"]
        answer = wait_for(
            lambda: self._answer(command_id, instance_id),
            f"the command's answer from {instance_id}",
            within_s=_WITHIN_S,
            every_s=_EVERY_S,
            clock=self._clock,
        )
        if answer["Status"] != "Success":
            said = answer.get("StandardErrorContent", "").strip() or answer.get("StatusDetails", answer["Status"])
            raise Failed(f"the command failed on {instance_id}: {said}")
        return str(answer.get("StandardOutputContent", ""))

    def _answer(self, command_id: str, instance_id: str) -> dict[str, Any] | None:
        try:
            answer: dict[str, Any] = self._client.get_command_invocation(CommandId=command_id, InstanceId=instance_id)
        except ClientError as error:
            if error_code(error) == "InvocationDoesNotExist":  # not there yet, right after it was sent
                return None
            raise
        return None if answer["Status"] in _UNDER_WAY else answer


def session_command(
    account: Account,
    instance_id: str,
    document: str | None = None,
    parameters: Mapping[str, Sequence[str]] | None = None,
) -> list[str]:
    """The aws command that opens a session on a node."""
    command = ["aws", "ssm", "start-session", "--target", instance_id, "--region", account.region]
    if account.profile:
        command += ["--profile", account.profile]
    if document:
        command += ["--document-name", document, "--parameters", json.dumps(parameters or {})]
    return command


def become(command: Sequence[str], environ: Mapping[str, str]) -> NoReturn:
    """This process becomes the session. Raises ToolMissing where AWS's programs are not installed."""
    for program, where in _INSTALL.items():
        if shutil.which(program) is None:
            raise ToolMissing(f"{program} is not installed; sessions on nodes need it", f"install it: {where}")
    os.execvpe(command[0], list(command), dict(environ))  # noqa: S606 # no shell is what we want
