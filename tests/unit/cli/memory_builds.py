"""CodeBuild and CloudWatch Logs in memory: a build runs the job in this process, its log has what the job prints."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass, field
from typing import Any

import boto3
from botocore.exceptions import ClientError

from cli import hub_job
from cli.account import Account


@dataclass
class MemoryBuilds:
    """environ: the project's own variables; None: there is no project. refuses: the code of StartBuild's error."""

    environ: dict[str, str] | None = None
    refuses: str = ""
    dies: bool = False
    """A build that ends without a word."""

    started: list[dict[str, Any]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    status: str = "SUCCEEDED"
    polls: int = 0

    def start_build(self, **request: Any) -> dict[str, Any]:
        # The shape of the request, as botocore would check it.
        client = boto3.client("codebuild")
        model = client.meta.service_model.operation_model("StartBuild")
        client._convert_to_request_dict(request, model, endpoint_url="https://codebuild", context={})
        refused = self.refuses or ("ResourceNotFoundException" if self.environ is None else "")
        if refused:
            raise ClientError({"Error": {"Code": refused, "Message": "Cannot have more than 0 builds"}}, "StartBuild")
        self.started.append(request)
        self.lines = ["[Container] Phase BUILD"]
        given = {each["name"]: each["value"] for each in request["environmentVariablesOverride"]}
        out, err = io.StringIO(), io.StringIO()
        if not self.dies:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = hub_job.main({**(self.environ or {}), **given})
            self.status = "FAILED" if code else "SUCCEEDED"
        self.lines += [*err.getvalue().splitlines(), *out.getvalue().splitlines()]
        self.polls = 0
        return {"build": {"id": f"{request['projectName']}:1"}}

    def batch_get_builds(self, ids: list[str]) -> dict[str, Any]:
        self.polls += 1
        is_done = self.polls > 1
        return {
            "builds": [
                {
                    "buildStatus": self.status if is_done else "IN_PROGRESS",
                    "currentPhase": "COMPLETED" if is_done else "BUILD",
                    "logs": {"groupName": "/aws/codebuild/synkti-model", "streamName": "1"} if is_done else {},
                }
            ]
        }

    def get_log_events(self, nextToken: str = "0", **_: Any) -> dict[str, Any]:
        start = int(nextToken)
        return {
            "events": [{"message": f"{line}\n"} for line in self.lines[start : start + 2]],
            "nextForwardToken": str(min(start + 2, len(self.lines))),
        }

    def install(self, monkeypatch: Any) -> None:
        real = Account._client

        def client(account: Account, service: str, connections: int = 10) -> Any:
            return self if service in ("codebuild", "logs") else real(account, service, connections)

        monkeypatch.setattr(Account, "_client", client)
