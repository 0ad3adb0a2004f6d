"""Import the resources that an earlier cluster of the same name retained into a new stack.

The models bucket, the table and the clients' keys outlive their stack on purpose, and a new stack cannot create what
already exists. So they are imported first, with a template that contains only them, and the identifier of each. The
deployment after that adds the rest.

Rules of CloudFormation's import: every resource in the template is imported, each needs a DeletionPolicy, and there
are no outputs. (`cdk deploy --import-existing-resources` takes only names that are literal in the template; ours have
the account's number in them.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

IDENTIFIERS = {
    "AWS::S3::Bucket": "BucketName",
    "AWS::DynamoDB::Table": "TableName",
    "AWS::SecretsManager::Secret": "Id",
}
"""The property by which CloudFormation finds each kind; that of a secret is its ARN."""


@dataclass(frozen=True)
class RetainedResource:
    """A resource that an earlier stack retained. name: in the account."""

    kind: str
    logical_id: str
    name: str

    def to_import(self) -> dict[str, Any]:
        """Return the resource for CreateChangeSet."""
        return {
            "ResourceType": self.kind,
            "LogicalResourceId": self.logical_id,
            "ResourceIdentifier": {IDENTIFIERS[self.kind]: self.name},
        }


def retained(template: Mapping[str, Any], known: Mapping[str, str]) -> tuple[RetainedResource, ...]:
    """Return the resources that a template's stack retains. known: the name of the retained one of each type."""
    return tuple(
        RetainedResource(resource["Type"], logical, known[resource["Type"]])
        for logical, resource in template["Resources"].items()
        if resource.get("DeletionPolicy", "Delete") != "Delete" and resource["Type"] in known
    )


def import_template(template: Mapping[str, Any], left: Sequence[RetainedResource]) -> dict[str, Any]:
    """Return the template with these resources only."""
    return {
        "Description": template.get("Description", ""),
        "Resources": {each.logical_id: template["Resources"][each.logical_id] for each in left},
    }
