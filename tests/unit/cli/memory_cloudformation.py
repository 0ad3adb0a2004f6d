"""CloudFormation in memory, as far as the commands use it: moto's needs packages that nothing else here does.

It answers in the shapes of boto3's client; the end-to-end test has the real client against the embedded AWS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import ClientError


@dataclass
class MemoryStack:
    """resources: by logical id, as in a template, each with its PhysicalId beside."""

    name: str
    cluster: str
    outputs: Mapping[str, str]
    resources: Mapping[str, Any]
    changed: datetime
    status: str = "CREATE_COMPLETE"


@dataclass
class MemoryCloudFormation:
    """undeletable: a stack that fails to be deleted, and CloudFormation's reason. deleted: the names, in order.

    invalid: its error for every template. imported: names by logical id, of each import; unimportable: why
    there can be none.
    """

    stacks: dict[str, MemoryStack] = field(default_factory=dict)
    undeletable: dict[str, str] = field(default_factory=dict)
    deleted: list[str] = field(default_factory=list)
    invalid: str = ""
    imported: list[dict[str, str]] = field(default_factory=list)
    unimportable: str = ""
    on_delete: Callable[[str], None] = lambda name: None

    def make(self, name: str, cluster: str, outputs: Mapping[str, str], resources: Mapping[str, Any]) -> None:
        changed = datetime.fromtimestamp(1_700_000_000 + len(self.stacks), UTC)
        self.stacks[name] = MemoryStack(name, cluster, outputs, resources, changed)

    def get_paginator(self, operation: str) -> _Pages:
        return _Pages(getattr(self, operation))

    def describe_stacks(self, StackName: str | None = None) -> dict[str, Any]:  # boto3's name
        if StackName is not None:
            return {"Stacks": [_described(self._stack(StackName))]}
        return {"Stacks": [_described(stack) for stack in self.stacks.values()]}

    def get_template(self, StackName: str) -> dict[str, Any]:
        return {"TemplateBody": {"Resources": dict(self._stack(StackName).resources)}}

    def create_change_set(self, **given: Any) -> None:
        names = {
            r["LogicalResourceId"]: next(iter(r["ResourceIdentifier"].values())) for r in given["ResourcesToImport"]
        }
        self.imported.append(names)
        self.make(given["StackName"], "", {}, {})
        self.stacks[given["StackName"]].status = "REVIEW_IN_PROGRESS"

    def describe_change_set(self, **_: Any) -> dict[str, Any]:
        if self.unimportable:
            return {"Status": "FAILED", "StatusReason": self.unimportable}
        return {"Status": "CREATE_COMPLETE"}

    def execute_change_set(self, **given: Any) -> None:
        self.stacks[given["StackName"]].status = "IMPORT_COMPLETE"

    def validate_template(self, TemplateBody: str) -> None:
        if self.invalid:
            error: Any = {"Code": "ValidationError", "Message": self.invalid}
            raise ClientError({"Error": error}, "ValidateTemplate")

    def list_stack_resources(self, StackName: str) -> dict[str, Any]:
        held = self._stack(StackName).resources.items()
        return {
            "StackResourceSummaries": [
                {"ResourceType": r["Type"], "LogicalResourceId": logical, "PhysicalResourceId": r["PhysicalId"]}
                for logical, r in held
            ]
        }

    def delete_stack(self, StackName: str) -> None:
        self._stack(StackName).status = "DELETE_IN_PROGRESS"
        if StackName in self.undeletable:
            self.stacks[StackName].status = "DELETE_FAILED"
            return
        self.on_delete(StackName)
        self.deleted.append(StackName)
        del self.stacks[StackName]

    def describe_stack_events(self, StackName: str) -> dict[str, Any]:
        kind = "AWS::CloudFormation::Stack"
        return {
            "StackEvents": [
                {"LogicalResourceId": StackName, "ResourceType": kind, "ResourceStatus": "DELETE_FAILED"},
                {
                    "LogicalResourceId": "Checkpoints",
                    "ResourceType": "AWS::S3::Bucket",
                    "ResourceStatus": "DELETE_FAILED",
                    "ResourceStatusReason": self.undeletable[StackName],
                },
                {"LogicalResourceId": StackName, "ResourceType": kind, "ResourceStatus": "DELETE_IN_PROGRESS"},
            ]
        }

    def _stack(self, name: str) -> MemoryStack:
        if name not in self.stacks:
            error: Any = {"Code": "ValidationError", "Message": f"Stack with id {name} does not exist"}
            raise ClientError({"Error": error}, "DescribeStacks")
        return self.stacks[name]


@dataclass
class _Pages:
    operation: Callable[..., dict[str, Any]]

    def paginate(self, **given: Any) -> Iterator[dict[str, Any]]:
        yield self.operation(**given)


def _described(stack: MemoryStack) -> dict[str, Any]:
    return {
        "StackName": stack.name,
        "StackStatus": stack.status,
        "Tags": [{"Key": "SynktiCluster", "Value": stack.cluster}],
        "CreationTime": stack.changed,
        "Outputs": [{"OutputKey": key, "OutputValue": value} for key, value in stack.outputs.items()],
    }
