"""The policies of the templates' roles, with the names that the resources have in an account."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from checks.assemblies import ACCOUNT, REGION, Synthesized

_PSEUDO = {
    "AWS::Partition": "aws",
    "AWS::Region": REGION,
    "AWS::AccountId": ACCOUNT,
    "AWS::URLSuffix": "amazonaws.com",
}
_HASH = re.compile(r"[0-9A-F]{8}$")


class Roles:
    """statements: by the role's logical id without the CDK's hash, such as NodeRole."""

    def __init__(self, templates: Synthesized) -> None:
        self._templates = templates.templates
        self.statements: dict[str, list[dict[str, Any]]] = {}
        for name, template in self._templates.items():
            for resource in template["Resources"].values():
                if resource["Type"] == "AWS::IAM::Policy":
                    self._add(name, resource["Properties"])

    def _add(self, template: str, policy: Mapping[str, Any]) -> None:
        for role in policy["Roles"]:
            held = self.statements.setdefault(_HASH.sub("", role["Ref"]), [])
            for statement in policy["PolicyDocument"]["Statement"]:
                held.append(self._resolved(template, statement))

    def _resolved(self, template: str, value: Any) -> Any:
        """Replace CloudFormation's functions. Raises ValueError for one that is not known here."""
        match value:
            case list():
                return [self._resolved(template, each) for each in value]
            case {"Ref": str(name)}:
                return _PSEUDO[name] if name in _PSEUDO else self._name(template, name)
            case {"Fn::GetAtt": [str(name), "Arn"]}:
                return self._arn(template, name)
            case {"Fn::Join": [str(joint), pieces]}:
                return joint.join(str(self._resolved(template, each)) for each in pieces)
            case {"Fn::Sub": str(text)}:
                return re.sub(r"\$\{(AWS::\w+)\}", lambda found: _PSEUDO[found[1]], text)
            case {"Fn::ImportValue": str(export)}:
                return self._exported(export)
            case dict():
                if any(key.startswith("Fn::") for key in value):
                    raise ValueError(f"{value} is not known here")
                return {key: self._resolved(template, each) for key, each in value.items()}
        return value

    def _exported(self, export: str) -> Any:
        for name, template in self._templates.items():
            for output in template.get("Outputs", {}).values():
                if output.get("Export", {}).get("Name") == export:
                    return self._resolved(name, output["Value"])
        raise ValueError(f"no template exports {export}")

    def _name(self, template: str, logical_id: str) -> str:
        """Return what Ref gives: the name of the resource, or its ARN for a secret."""
        resource = self._templates[template]["Resources"][logical_id]
        if resource["Type"] == "AWS::SecretsManager::Secret":
            return self._arn(template, logical_id)
        properties = resource.get("Properties", {})
        for name in ("BucketName", "TableName", "LogGroupName", "QueueName", "Name"):
            if name in properties:
                return str(self._resolved(template, properties[name]))
        return logical_id

    def _arn(self, template: str, logical_id: str) -> str:
        kind = self._templates[template]["Resources"][logical_id]["Type"]
        here = f"{REGION}:{ACCOUNT}"
        if kind == "AWS::SecretsManager::Secret":
            name = self._resolved(template, self._templates[template]["Resources"][logical_id]["Properties"]["Name"])
            return f"arn:aws:secretsmanager:{here}:secret:{name}-AbCdEf"
        name = self._name(template, logical_id)
        shapes = {
            "AWS::S3::Bucket": f"arn:aws:s3:::{name}",
            "AWS::DynamoDB::Table": f"arn:aws:dynamodb:{here}:table/{name}",
            "AWS::Logs::LogGroup": f"arn:aws:logs:{here}:log-group:{name}:*",
            "AWS::SQS::Queue": f"arn:aws:sqs:{here}:{name}",
            "AWS::ImageBuilder::Component": f"arn:aws:imagebuilder:{here}:component/{name}/1.0.0/1",
        }
        if kind not in shapes:
            raise ValueError(f"the ARN of a {kind} is not known here")
        return shapes[kind]
