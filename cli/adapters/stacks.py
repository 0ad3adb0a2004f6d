"""CloudFormation: list stacks and their retained resources, delete stacks, import resources."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from cli.core.clusters import Stack, first_failure
from cli.core.resource_import import RetainedResource
from cli.errors import Failed
from cli.polling import Clock, wait_for
from node_agent.contract.tags import CLUSTER_TAG

_MAX_STACKS = 2_000
"""The most stacks that are listed: CloudFormation's default quota."""

_IMPORT_WITHIN_S = 600.0


@dataclass(frozen=True)
class Resource:
    """A stack's resource. logical_id: its name in the template; physical_id: its name in the account."""

    kind: str
    logical_id: str
    physical_id: str


class Stacks:
    """The region's stacks. client: boto3's of CloudFormation. Methods raise BotoCoreError and ClientError."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def list_stacks(self) -> list[Stack]:
        """Return all stacks of the region."""
        found: list[Stack] = []
        for page in self._client.get_paginator("describe_stacks").paginate():
            found += [_stack(stack) for stack in page["Stacks"]]
            if len(found) > _MAX_STACKS:
                break
        return found

    def find(self, name: str) -> Stack | None:
        """Return the stack of this name; None where there is none."""
        try:
            answer = self._client.describe_stacks(StackName=name)
        except ClientError as error:
            if error.response["Error"]["Code"] == "ValidationError":
                return None
            raise
        stack = _stack(answer["Stacks"][0])
        return stack if stack.exists else None

    def retained(self, name: str) -> list[Resource]:
        """Return the resources that remain when the stack is deleted."""
        body = self._client.get_template(StackName=name)["TemplateBody"]
        template = json.loads(body) if isinstance(body, str) else body
        kept = {
            logical
            for logical, resource in template.get("Resources", {}).items()
            if resource.get("DeletionPolicy", "Delete") != "Delete"
        }
        pages = self._client.get_paginator("list_stack_resources").paginate(StackName=name)
        every = [each for page in pages for each in page["StackResourceSummaries"]]
        return [
            Resource(each["ResourceType"], each["LogicalResourceId"], each.get("PhysicalResourceId", ""))
            for each in every
            if each["LogicalResourceId"] in kept
        ]

    def delete(
        self, name: str, *, within_s: float, every_s: float, clock: Clock, report: Callable[[str], None]
    ) -> None:
        """Delete a stack and wait until it is gone. report: called with each new status.

        Raises Failed with CloudFormation's reason, TimedOut.
        """
        self._client.delete_stack(StackName=name)
        reported: list[str] = []

        def gone() -> bool | None:
            stack = self.find(name)
            if stack is None:
                return True
            if stack.status == "DELETE_FAILED":
                raise Failed(
                    f"the stack {name} could not be deleted: {self.failure_reason(name)}",
                    "fix that and run synkti destroy again",
                )
            if reported[-1:] != [stack.status]:
                reported.append(stack.status)
                report(f"{name}: {stack.status.lower().replace('_', ' ')}")
            return None

        wait_for(gone, f"the end of the stack {name}", within_s=within_s, every_s=every_s, clock=clock)

    def import_resources(
        self, name: str, template: Mapping[str, Any], left: Sequence[RetainedResource], *, every_s: float, clock: Clock
    ) -> None:
        """Create a stack by importing an earlier one's retained resources. Raises Failed with the reason, TimedOut."""
        change = {"StackName": name, "ChangeSetName": "take-over"}
        self._client.create_change_set(
            **change,
            ChangeSetType="IMPORT",
            TemplateBody=json.dumps(template),
            ResourcesToImport=[each.to_import() for each in left],
        )

        def made() -> bool | None:
            described = self._client.describe_change_set(**change)
            if described["Status"] == "FAILED":
                raise Failed(
                    f"{name} cannot take over what is there: {described.get('StatusReason', 'no reason given')}"
                )
            return True if described["Status"] == "CREATE_COMPLETE" else None

        def done() -> bool | None:
            stack = self.find(name)
            if stack is None or "ROLLBACK" in stack.status or stack.status.endswith("FAILED"):
                raise Failed(f"{name} could not take over what is there: {self.failure_reason(name)}")
            return True if stack.status == "IMPORT_COMPLETE" else None

        wait_for(made, "the change set", within_s=_IMPORT_WITHIN_S, every_s=every_s, clock=clock)
        self._client.execute_change_set(**change)
        wait_for(done, "the import", within_s=_IMPORT_WITHIN_S, every_s=every_s, clock=clock)

    def failure_reason(self, name: str) -> str:
        """Return what failed first in the stack's last operation; empty where nothing did."""
        return first_failure(self._client.describe_stack_events(StackName=name)["StackEvents"])


def _stack(described: dict[str, Any]) -> Stack:
    outputs = {each["OutputKey"]: each["OutputValue"] for each in described.get("Outputs", [])}
    changed = described.get("LastUpdatedTime") or described["CreationTime"]
    return Stack(
        described["StackName"],
        described["StackStatus"],
        next((tag["Value"] for tag in described.get("Tags", []) if tag["Key"] == CLUSTER_TAG), None),
        outputs,
        changed.timestamp(),
    )
