"""The evaluator of policies against the examples of AWS's IAM User Guide; each is named after its page."""

from __future__ import annotations

from typing import Any

import pytest

from tests.aws_calls.policy_evaluator import ContextValue, Decision, Request, evaluate

BUCKET = "arn:aws:s3:::BUCKET-NAME"
ACCESS_KEY = "iam:CreateAccessKey"
USER = "arn:aws:iam::123456789012:user/ann"
THREAD = "arn:aws:dynamodb:us-east-1:123456789012:table/Thread"
INSTANCE = "arn:aws:ec2:us-east-1:123456789012:instance/i-0123456789abcdef0"


def access_keys(condition: dict[str, Any]) -> dict[str, Any]:
    return {
        "Effect": "Allow",
        "Action": "iam:*AccessKey*",
        "Resource": "arn:aws:iam::123456789012:user/*",
        "Condition": condition,
    }


HOME = (
    {"Effect": "Allow", "Action": ["s3:ListAllMyBuckets", "s3:GetBucketLocation"], "Resource": "arn:aws:s3:::*"},
    {
        "Effect": "Allow",
        "Action": "s3:ListBucket",
        "Resource": BUCKET,
        "Condition": {"StringLike": {"s3:prefix": ["", "home/", "home/${aws:username}/"]}},
    },
    {
        "Effect": "Allow",
        "Action": "s3:*",
        "Resource": [f"{BUCKET}/home/${{aws:username}}", f"{BUCKET}/home/${{aws:username}}/*"],
    },
)
"""reference_policies_elements_condition_operators, String: a user's home folder."""

READ = {
    "Effect": "Allow",
    "Action": "dynamodb:GetItem",
    "Resource": THREAD,
    "Condition": {"ForAllValues:StringLike": {"dynamodb:requestedAttributes": ["PostDateTime", "Message", "Tags"]}},
}
WRITE = (
    {"Effect": "Allow", "Action": "dynamodb:*", "Resource": "*"},
    {
        "Effect": "Deny",
        "Action": "dynamodb:PutItem",
        "Resource": THREAD,
        "Condition": {"ForAnyValue:StringLike": {"dynamodb:requestedAttributes": ["ID", "PostDateTime"]}},
    },
)
"""reference_policies_multi-value-conditions: which attributes of an item may be read, and which not written."""

TYPES = {
    "Effect": "Allow",
    "Action": "ec2:RunInstances",
    "Resource": "*",
    "Condition": {"StringLikeIfExists": {"ec2:InstanceType": ["t1.*", "t2.*", "m3.*"]}},
}
"""reference_policies_elements_condition_operators, IfExists: only some types, and no condition on what has no type."""

NO_MFA = {
    "Sid": "BlockMostAccessUnlessSignedInWithMFA",
    "Effect": "Deny",
    "NotAction": ["iam:CreateVirtualMFADevice", "iam:EnableMFADevice", "sts:GetSessionToken"],
    "Resource": "*",
    "Condition": {"BoolIfExists": {"aws:MultiFactorAuthPresent": "false"}},
}
"""reference_policies_examples_aws_my-sec-creds-self-manage: a Deny, NotAction and BoolIfExists."""

NO_HR = {
    "Effect": "Deny",
    "Action": "s3:*",
    "NotResource": ["arn:aws:s3:::HRBucket/Payroll", "arn:aws:s3:::HRBucket/Payroll/*"],
}
"""reference_policies_elements_notresource: denied all but one folder."""

EVERYTHING = {"Effect": "Allow", "Action": "*", "Resource": "*"}
DEPARTMENT = access_keys({"StringEquals": {"aws:PrincipalTag/job-category": "iamuser-admin"}})
ISSUED = access_keys({"DateGreaterThan": {"aws:TokenIssueTime": "2020-01-01T00:00:01Z"}})
ADDRESS = access_keys({"IpAddress": {"aws:SourceIp": ["203.0.113.0/24", "2001:DB8:1234:5678::/64"]}})
PLAIN = access_keys({"Null": {"aws:TokenIssueTime": "true"}})
"""The same page, Null: only with access keys, not with temporary credentials."""

NOT_TESTING = {
    "Effect": "Allow",
    "Action": "ec2:StartInstances",
    "Resource": "arn:aws:ec2:*:*:instance/*",
    "Condition": {"StringNotEquals": {"ec2:ResourceTag/stage": ["test", "beta"]}},
}
KEYS = {
    "Effect": "Allow",
    "Action": "s3:ListBucket",
    "Resource": BUCKET,
    "Condition": {"NumericLessThanEquals": {"s3:max-keys": "10"}},
}
QUEUES = {"Effect": "Allow", "Action": "sqs:*", "Resource": "arn:aws:sqs:us-east-2:*:${aws:username}-queue"}
"""reference_policies_variables: a variable in a resource."""

TOPIC = {
    "Effect": "Allow",
    "Action": "sqs:SendMessage",
    "Resource": "*",
    "Condition": {"ArnLike": {"aws:SourceArn": "arn:aws:sns:*:123456789012:a-*"}},
}
DEFAULTED = {
    "Effect": "Allow",
    "Action": "s3:GetObject",
    "Resource": f"{BUCKET}/${{aws:PrincipalTag/team, 'company-wide'}}/*",
}
"""reference_policies_variables, default values."""

STAR = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": f"{BUCKET}/literal${{*}}"}
"""reference_policies_variables, special characters."""

ann = {"aws:username": "ann"}


@pytest.mark.parametrize(
    ("statements", "action", "resource", "context", "allowed"),
    [
        (HOME, "s3:ListAllMyBuckets", "arn:aws:s3:::anything", ann, True),
        (HOME, "s3:ListBucket", BUCKET, {**ann, "s3:prefix": "home/ann/"}, True),
        (HOME, "s3:ListBucket", BUCKET, {**ann, "s3:prefix": ""}, True),
        (HOME, "s3:ListBucket", BUCKET, {**ann, "s3:prefix": "home/bob/"}, False),
        (HOME, "s3:ListBucket", BUCKET, ann, False),
        (HOME, "s3:PutObject", f"{BUCKET}/home/ann/notes", ann, True),
        (HOME, "s3:PutObject", f"{BUCKET}/home/bob/notes", ann, False),
        (HOME, "s3:PutObject", f"{BUCKET}/home/ann/notes", {}, False),
        ([DEPARTMENT], ACCESS_KEY, USER, {"aws:PrincipalTag/job-category": "iamuser-admin"}, True),
        ([DEPARTMENT], "IAM:createaccesskey", USER, {"AWS:principaltag/job-category": "iamuser-admin"}, True),
        ([DEPARTMENT], ACCESS_KEY, USER, {"aws:PrincipalTag/job-category": "IAMUSER-ADMIN"}, False),
        ([DEPARTMENT], ACCESS_KEY, USER, {}, False),
        ([DEPARTMENT], "iam:DeleteUser", USER, {"aws:PrincipalTag/job-category": "iamuser-admin"}, False),
        ([ISSUED], ACCESS_KEY, USER, {"aws:TokenIssueTime": "2026-01-01T00:00:00Z"}, True),
        ([ISSUED], ACCESS_KEY, USER, {"aws:TokenIssueTime": "2019-12-31T00:00:00Z"}, False),
        ([ISSUED], ACCESS_KEY, USER, {}, False),
        ([ADDRESS], ACCESS_KEY, USER, {"aws:SourceIp": "203.0.113.9"}, True),
        ([ADDRESS], ACCESS_KEY, USER, {"aws:SourceIp": "2001:db8:1234:5678::1"}, True),
        ([ADDRESS], ACCESS_KEY, USER, {"aws:SourceIp": "198.51.100.1"}, False),
        ([PLAIN], ACCESS_KEY, USER, {}, True),
        ([PLAIN], ACCESS_KEY, USER, {"aws:TokenIssueTime": "2026-01-01T00:00:00Z"}, False),
        ([KEYS], "s3:ListBucket", BUCKET, {"s3:max-keys": "10"}, True),
        ([KEYS], "s3:ListBucket", BUCKET, {"s3:max-keys": "11"}, False),
        ([NOT_TESTING], "ec2:StartInstances", INSTANCE, {"ec2:ResourceTag/stage": "prod"}, True),
        ([NOT_TESTING], "ec2:StartInstances", INSTANCE, {"ec2:ResourceTag/stage": "beta"}, False),
        ([NOT_TESTING], "ec2:StartInstances", INSTANCE, {}, True),  # a negated operator, and no such key
        ([READ], "dynamodb:GetItem", THREAD, {"dynamodb:requestedAttributes": ("PostDateTime", "Message")}, True),
        ([READ], "dynamodb:GetItem", THREAD, {"dynamodb:requestedAttributes": ("PostDateTime", "UserName")}, False),
        ([READ], "dynamodb:GetItem", THREAD, {"dynamodb:requestedAttributes": ()}, True),
        ([READ], "dynamodb:GetItem", THREAD, {}, True),
        (WRITE, "dynamodb:PutItem", THREAD, {"dynamodb:requestedAttributes": ("UserName", "PostDateTime")}, False),
        (WRITE, "dynamodb:PutItem", THREAD, {"dynamodb:requestedAttributes": ("UserName",)}, True),
        (WRITE, "dynamodb:PutItem", THREAD, {}, True),
        ([TYPES], "ec2:RunInstances", INSTANCE, {"ec2:InstanceType": "t2.micro"}, True),
        ([TYPES], "ec2:RunInstances", INSTANCE, {"ec2:InstanceType": "p5.48xlarge"}, False),
        ([TYPES], "ec2:RunInstances", "arn:aws:ec2:us-east-1::image/ami-1", {}, True),
        ([EVERYTHING, NO_MFA], "s3:GetObject", BUCKET, {"aws:MultiFactorAuthPresent": "false"}, False),
        ([EVERYTHING, NO_MFA], "s3:GetObject", BUCKET, {"aws:MultiFactorAuthPresent": "true"}, True),
        ([EVERYTHING, NO_MFA], "s3:GetObject", BUCKET, {}, False),
        ([EVERYTHING, NO_MFA], "iam:EnableMFADevice", USER, {"aws:MultiFactorAuthPresent": "false"}, True),
        ([EVERYTHING, NO_HR], "s3:GetObject", "arn:aws:s3:::HRBucket/Payroll/may", {}, True),
        ([EVERYTHING, NO_HR], "s3:GetObject", "arn:aws:s3:::HRBucket/Reviews/may", {}, False),
        ([QUEUES], "sqs:ReceiveMessage", "arn:aws:sqs:us-east-2:123456789012:ann-queue", ann, True),
        ([QUEUES], "sqs:ReceiveMessage", "arn:aws:sqs:us-east-1:123456789012:ann-queue", ann, False),
        ([QUEUES], "sqs:ReceiveMessage", "arn:aws:sqs:us-east-2:123456789012:bob-queue", ann, False),
        ([TOPIC], "sqs:SendMessage", "x", {"aws:SourceArn": "arn:aws:sns:us-east-1:123456789012:a-1"}, True),
        ([TOPIC], "sqs:SendMessage", "x", {"aws:SourceArn": "arn:aws:sns:us-east-1:999999999999:a-1"}, False),
        ([DEFAULTED], "s3:GetObject", f"{BUCKET}/blue/x", {"aws:PrincipalTag/team": "blue"}, True),
        ([DEFAULTED], "s3:GetObject", f"{BUCKET}/company-wide/x", {}, True),
        ([DEFAULTED], "s3:GetObject", f"{BUCKET}/red/x", {}, False),
        ([STAR], "s3:GetObject", f"{BUCKET}/literal*", {}, True),
        ([STAR], "s3:GetObject", f"{BUCKET}/literally", {}, False),
        ([], "s3:GetObject", BUCKET, {}, False),
    ],
)
def test_an_example_of_the_user_guide_is_decided_as_the_guide_has_it(
    statements: Any, action: str, resource: str, context: dict[str, ContextValue], allowed: bool
) -> None:
    assert evaluate(statements, Request(action, resource, context)).is_allowed is allowed


def test_the_decision_names_its_statement() -> None:
    request = Request("s3:GetObject", BUCKET, {"aws:MultiFactorAuthPresent": "false"})
    assert evaluate([EVERYTHING, NO_MFA], request) == Decision(False, "BlockMostAccessUnlessSignedInWithMFA")


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ({**EVERYTHING, "Principal": "*"}, "Principal"),
        ({**EVERYTHING, "Condition": {"BinaryEquals": {"aws:username": "YQ=="}}}, "BinaryEquals"),
        ({**EVERYTHING, "Condition": {"ForNoValue:StringEquals": {"aws:username": "a"}}}, "ForNoValue"),
        ({**EVERYTHING, "Condition": {"StringEquals": {"aws:username": "a"}}}, "several values"),
        ({**EVERYTHING, "Effect": "allow"}, "effect 'allow'"),
    ],
)
def test_what_is_not_implemented_is_an_error(statement: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate([statement], Request("s3:GetObject", BUCKET, {"aws:username": ("a", "b")}))
