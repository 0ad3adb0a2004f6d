"""A new cluster where an old one was: what the old one left behind becomes the new one's.

The models bucket and the table outlive their stack on purpose, and a new stack cannot make what is there already. So
they are imported first: CloudFormation takes a template that has nothing but them, and the identifier of each. The
deployment after it adds the rest.

Rules of CloudFormation's import: every resource in the template is imported, each needs a DeletionPolicy, and there
are no outputs. (`cdk deploy --import-existing-resources` takes only names that are literal in the template; ours have
the account's number in them.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

IDENTIFIERS = {"AWS::S3::Bucket": "BucketName", "AWS::DynamoDB::Table": "TableName"}
"""The property by which CloudFormation finds each kind."""


@dataclass(frozen=True)
class RetainedResource:
    """Something that an earlier stack has left. name: in the account."""

    kind: str
    logical: str
    name: str

    def to_import(self) -> dict[str, Any]:
        """As CreateChangeSet takes it."""
        return {
            "ResourceType": self.kind,
            "LogicalResourceId": self.logical,
            "ResourceIdentifier": {IDENTIFIERS[self.kind]: self.name},
        }


def retained(template: Mapping[str, Any], known: Mapping[str, str]) -> tuple[RetainedResource, ...]:
    """What the stack of this template would leave behind. known: the name of the one of each kind that is retained."""
    return tuple(
        RetainedResource(resource["Type"], logical, known[resource["Type"]])
        for logical, resource in template["Resources"].items()
        if resource.get("DeletionPolicy", "Delete") != "Delete" and resource["Type"] in known
    )


def import_template(template: Mapping[str, Any], left: Sequence[RetainedResource]) -> dict[str, Any]:
    """The template with nothing but these resources."""
    return {
        "Description": template.get("Description", ""),
        "Resources": {each.logical: template["Resources"][each.logical] for each in left},
    }
