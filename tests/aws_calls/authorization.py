"""The requests that AWS authorizes for a call: action, resource and condition keys.

Source: the Service Authorization Reference, for each service "Actions defined by", "Resource types", "Condition keys".
Most actions have their operation's name; the exceptions are listed. Only the condition keys that policies here use, or
that a wrong policy might, are made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import botocore.session

from checks.assemblies import ACCOUNT, REGION
from tests.aws_calls.policy_evaluator import ContextValue, Request
from tests.aws_calls.recording import Call

Params = Mapping[str, Any]

ACTIONS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "s3": {
        "HeadBucket": ("s3:ListBucket",),
        "ListObjectsV2": ("s3:ListBucket",),
        "ListBuckets": ("s3:ListAllMyBuckets",),
        "HeadObject": ("s3:GetObject",),
        "GetBucketEncryption": ("s3:GetEncryptionConfiguration",),
        "CreateMultipartUpload": ("s3:PutObject",),
        "UploadPart": ("s3:PutObject",),
        "CompleteMultipartUpload": ("s3:PutObject",),
        "ListParts": ("s3:ListMultipartUploadParts",),
        "ListMultipartUploads": ("s3:ListBucketMultipartUploads",),
        "ListObjectVersions": ("s3:ListBucketVersions",),
    },
    # Its template names a role, which FIS assumes, and has tags.
    "fis": {"CreateExperimentTemplate": ("fis:CreateExperimentTemplate", "fis:TagResource", "iam:PassRole")},
}
"""The actions of operations that have other names."""


def actions_of(service: str, operation: str, params: Params | None = None) -> tuple[str, ...]:
    """Return the actions that an operation needs. params: decide between two of S3; None: both."""
    if service == "s3" and operation in ("DeleteObject", "DeleteObjects"):
        given = params or {}
        versions = "VersionId" in given or any(
            "VersionId" in each for each in given.get("Delete", {}).get("Objects", ())
        )
        plain, versioned = "s3:DeleteObject", "s3:DeleteObjectVersion"
        return (plain, versioned) if params is None else (versioned,) if versions else (plain,)
    return ACTIONS.get(service, {}).get(operation) or (f"{_prefix(service)}:{operation}",)


@cache
def _prefix(service: str) -> str:
    """Return the service's name in policies: that by which requests to it are signed, but for CloudWatch."""
    name = str(botocore.session.get_session().get_service_model(service).signing_name)
    return "cloudwatch" if name == "monitoring" else name


def requests_of(
    call: Call, userid: str = "", tags: Callable[[str], Mapping[str, str]] = lambda _: {}
) -> tuple[Request, ...]:
    """Return a call's requests.

    userid: of the caller; tags: of an instance, by its id.
    """
    context: dict[str, ContextValue] = {"aws:userid": userid} if userid else {}
    found = _resources(call.service, call.operation, call.params, tags)
    return tuple(
        Request(action, resource, {**context, **keys})
        for action in actions_of(call.service, call.operation, call.params)
        for resource, keys in found
    )


Target = tuple[str, Mapping[str, ContextValue]]
"""A resource's ARN, or *, and the condition keys of a request for it."""


def _resources(
    service: str, operation: str, params: Params, tags: Callable[[str], Mapping[str, str]]
) -> tuple[Target, ...]:
    here = f"{REGION}:{ACCOUNT}"
    match service, operation:
        case "ec2", "CreateTags" | "DeleteTags":
            return tuple(
                (f"arn:aws:ec2:{here}:instance/{each}", _tagging(each, params, tags)) for each in params["Resources"]
            )
        case "s3", _:
            return (_s3(params),)
        case "dynamodb", "BatchGetItem":
            return tuple((f"arn:aws:dynamodb:{here}:table/{table}", {}) for table in params["RequestItems"])
        case "dynamodb", _:
            index = f"/index/{params['IndexName']}" if "IndexName" in params else ""
            return ((f"arn:aws:dynamodb:{here}:table/{params['TableName']}{index}", {}),)
        case "secretsmanager", _:
            return ((f"arn:aws:secretsmanager:{here}:secret:{params['SecretId']}-AbCdEf", {}),)
        case "autoscaling", _ if "AutoScalingGroupName" in params and not operation.startswith("Describe"):
            sizes = {f"autoscaling:{name}": str(params[name]) for name in ("MinSize", "MaxSize") if name in params}
            return ((group_arn(params["AutoScalingGroupName"]), sizes),)
        case "events", "PutEvents":
            return tuple(
                (
                    f"arn:aws:events:{here}:event-bus/{entry.get('EventBusName', 'default')}",
                    {"events:source": entry["Source"], "events:detail-type": entry["DetailType"]},
                )
                for entry in params["Entries"]
            )
        case "cloudwatch", "PutMetricData":
            return (("*", {"cloudwatch:namespace": params["Namespace"]}),)
        case "codebuild", "StartBuild":
            return ((f"arn:aws:codebuild:{here}:project/{params['projectName']}", {}),)
        case "ssm", "GetParameter":
            owner = "" if params["Name"].startswith("/aws/") else ACCOUNT
            return ((f"arn:aws:ssm:{REGION}:{owner}:parameter{params['Name']}", {}),)
    return (("*", {}),)


def group_arn(name: str) -> str:
    """Return the ARN of an Auto Scaling group, with an id as AWS makes it."""
    unique = "930d940e-891e-4781-a11a-7b0acd480f03"
    return f"arn:aws:autoscaling:{REGION}:{ACCOUNT}:autoScalingGroup:{unique}:autoScalingGroupName/{name}"


def _s3(params: Params) -> Target:
    bucket = f"arn:aws:s3:::{params['Bucket']}" if "Bucket" in params else "*"
    if "Key" in params:
        return f"{bucket}/{params['Key']}", {
            "s3:if-none-match": params["IfNoneMatch"]
        } if "IfNoneMatch" in params else {}
    if "Delete" in params:
        return f"{bucket}/{params['Delete']['Objects'][0]['Key']}", {}
    return bucket, {"s3:prefix": params["Prefix"]} if "Prefix" in params else {}


def _tagging(instance_id: str, params: Params, tags: Callable[[str], Mapping[str, str]]) -> dict[str, ContextValue]:
    keys: dict[str, ContextValue] = {"ec2:InstanceID": instance_id}
    keys |= {f"ec2:ResourceTag/{name}": value for name, value in tags(instance_id).items()}
    if given := params.get("Tags"):
        keys["aws:TagKeys"] = tuple(each["Key"] for each in given)
        keys |= {f"aws:RequestTag/{each['Key']}": each["Value"] for each in given if "Value" in each}
    return keys
