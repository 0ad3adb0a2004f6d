"""CodeBuild: start a build that copies a model from a hub, and follow its log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from cli.aws_errors import error_code
from cli.errors import Failed, NotFound

_MAX_PAGES = 20
"""Of log lines in one poll: a build writes a line every ten seconds."""


@dataclass(frozen=True)
class BuildState:
    """A build. phase: what it does now; group, stream: of its log, "" before it has one."""

    is_done: bool
    status: str
    phase: str
    group: str
    stream: str


class ModelBuilds:
    """The builds of one project. codebuild, logs: boto3's clients. Methods raise BotoCoreError and ClientError."""

    def __init__(self, codebuild: Any, logs: Any, project: str) -> None:
        self._codebuild = codebuild
        self._logs = logs
        self._project = project
        self._token: str | None = None

    def start(self, variables: Mapping[str, str]) -> str:
        """Start a build with these variables; return its id. Raises NotFound, Failed."""
        override = [{"name": name, "value": value, "type": "PLAINTEXT"} for name, value in variables.items()]
        try:
            started = self._codebuild.start_build(projectName=self._project, environmentVariablesOverride=override)
        except ClientError as error:
            if error_code(error) == "ResourceNotFoundException":
                raise NotFound(
                    f"there is no project {self._project} in CodeBuild, which copies models from a hub",
                    "synkti bootstrap deploys it; or download the model, and push its folder: synkti model push DIR",
                ) from error
            if error_code(error) == "AccountLimitExceededException":
                raise Failed(
                    f"this account may not run a build now: {error.response['Error'].get('Message', '')}",
                    "AWS limits builds in new accounts, to none at first: request a quota for concurrently running "
                    "builds (Service Quotas, CodeBuild); or download the model, and push its folder",
                ) from error
            raise
        return str(started["build"]["id"])

    def state(self, build_id: str) -> BuildState:
        """Return a build's state. Raises NotFound."""
        builds = self._codebuild.batch_get_builds(ids=[build_id])["builds"]
        if not builds:
            raise NotFound(f"CodeBuild has no build {build_id}")
        build, log = builds[0], builds[0].get("logs") or {}
        status = str(build.get("buildStatus", ""))
        return BuildState(
            status != "IN_PROGRESS",
            status,
            str(build.get("currentPhase", "")),
            str(log.get("groupName") or ""),
            str(log.get("streamName") or ""),
        )

    def new_lines(self, state: BuildState) -> list[str]:
        """Return the lines of a build's log since the last call."""
        lines: list[str] = []
        if not state.stream:
            return lines
        query: dict[str, Any] = {"logGroupName": state.group, "logStreamName": state.stream, "startFromHead": True}
        for _ in range(_MAX_PAGES):
            more = {"nextToken": self._token} if self._token else {}
            try:
                page = self._logs.get_log_events(**query, **more)
            except ClientError as error:
                if error_code(error) == "ResourceNotFoundException":
                    break  # the stream appears with the first line
                raise
            lines += [str(event["message"]).rstrip() for event in page["events"]]
            # The same token means that there are no more lines yet.
            token, self._token = self._token, page.get("nextForwardToken")
            if token == self._token:
                break
        return lines
