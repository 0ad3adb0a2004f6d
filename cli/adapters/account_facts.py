"""Read from the account what the settings refer to; what cannot be read has the reason instead."""

from __future__ import annotations

import os
from typing import Any

from botocore.exceptions import ClientError

from cli.account import Account
from cli.adapters.github import find_repository
from cli.adapters.results import result_of
from cli.adapters.stacks import Stacks
from cli.aws_errors import error_code
from cli.core.account_facts import AccountFacts, ImageFacts, KeyFacts
from cli.core.domain import HostedZone
from cli.core.github import ISSUER, Provider
from cli.core.network import Vpc, parse_vpc
from node_agent.contract.names import stack_name
from stacks.base_image import GPU_AMI_PARAMETER
from stacks.settings import FleetSettings

_CDK_ASSETS = "cdk-hnb659fds-assets"
"""The bucket of the CDK's own stack, before account and region."""

_AWS_EBS_KEY, _AWS_S3_KEY = "alias/aws/ebs", "alias/aws/s3"
"""AWS's own keys, which every principal of the account may use through the service."""


def read_facts(account: Account, settings: FleetSettings) -> AccountFacts:
    """Read what these settings need, and no more."""
    name = settings.github_repository
    return AccountFacts(
        vpc=result_of(lambda: _vpc(account.client("ec2"), settings)),
        provider=result_of(lambda: _provider(account, settings.cluster)) if name else None,
        repository=result_of(lambda: find_repository(name, os.environ)) if name else None,
        image=result_of(lambda: _image(account, settings)),
        zone=result_of(lambda: _zone(account, settings.hosted_zone_id)) if settings.hosted_zone_id else None,
        keys=result_of(lambda: _keys(account)),
    )


def _zone(account: Account, zone_id: str) -> HostedZone | None:
    try:
        found = account.client("route53").get_hosted_zone(Id=zone_id)["HostedZone"]
    except ClientError as error:
        if error_code(error) == "NoSuchHostedZone":
            return None
        raise
    return HostedZone(str(found["Name"]).rstrip("."), bool(found.get("Config", {}).get("PrivateZone")))


def _image(account: Account, settings: FleetSettings) -> ImageFacts:
    configured, newest = settings.image_id or settings.base_image_id, _newest_image(account.client("ssm"))
    used = configured or newest
    described = _describe_image(account.client("ec2"), used) if used else None
    return ImageFacts(newest, described is not None or not configured, _root_gib(described or {}))


def _newest_image(ssm: Any) -> str:
    try:
        return str(ssm.get_parameter(Name=GPU_AMI_PARAMETER)["Parameter"]["Value"])
    except ClientError as error:
        if error_code(error) == "ParameterNotFound":
            return ""
        raise


def _describe_image(ec2: Any, image_id: str) -> dict[str, Any] | None:
    try:
        images: list[dict[str, Any]] = ec2.describe_images(ImageIds=[image_id])["Images"]
    except ClientError as error:
        if error_code(error) in ("InvalidAMIID.NotFound", "InvalidAMIID.Unavailable"):
            return None
        raise
    return images[0] if images else None


def _root_gib(image: dict[str, Any]) -> int:
    """Return the size of the image's root volume; 0 where it is not described."""
    for mapping in image.get("BlockDeviceMappings", ()):
        if mapping.get("DeviceName") == image.get("RootDeviceName"):
            return int(mapping.get("Ebs", {}).get("VolumeSize", 0))
    return 0


def _keys(account: Account) -> KeyFacts:
    bucket = f"{_CDK_ASSETS}-{account.identity.account}-{account.region}"
    return KeyFacts(_volumes_key(account.client("ec2")), _bucket_key(account.client("s3"), bucket))


def _volumes_key(ec2: Any) -> str:
    key = str(ec2.get_ebs_default_kms_key_id().get("KmsKeyId", ""))
    return "" if key.endswith(_AWS_EBS_KEY) else key


def _bucket_key(s3: Any, bucket: str) -> str:
    """Return the key by which a bucket encrypts, if it is not AWS's own; empty where there is no such bucket."""
    try:
        encryption = s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]
    except ClientError as error:
        if error_code(error) in ("NoSuchBucket", "ServerSideEncryptionConfigurationNotFoundError"):
            return ""
        raise
    for rule in encryption.get("Rules", ()):
        chosen = rule.get("ApplyServerSideEncryptionByDefault", {})
        key = str(chosen.get("KMSMasterKeyID", ""))
        if chosen.get("SSEAlgorithm", "").startswith("aws:kms") and not key.endswith(_AWS_S3_KEY):
            return key
    return ""


def _provider(account: Account, cluster: str) -> Provider | None:
    iam = account.client("iam")
    every = [each["Arn"] for each in iam.list_open_id_connect_providers()["OpenIDConnectProviderList"]]
    for arn in every:
        if arn.endswith(f":oidc-provider/{ISSUER}"):
            audiences = iam.get_open_id_connect_provider(OpenIDConnectProviderArn=arn)["ClientIDList"]
            return Provider(arn, tuple(audiences), arn in _resources(account, stack_name(cluster, "github")))
    return None


def _resources(account: Account, name: str) -> frozenset[str]:
    """Return the retained resources of a deployed stack, by their names in the account."""
    stacks = Stacks(account.client("cloudformation"))
    stack = stacks.find(name)
    if stack is None or not stack.is_deployed:
        return frozenset()
    return frozenset(each.physical_id for each in stacks.retained(name))


def _vpc(ec2: Any, settings: FleetSettings) -> Vpc | None:
    if settings.vpc == "new":
        return None
    vpc_id = settings.vpc_id or default_vpc(ec2)
    if vpc_id is None:
        return None
    here = [{"Name": "vpc-id", "Values": [vpc_id]}]

    def every(operation: str, key: str) -> list[dict[str, Any]]:
        return [each for page in ec2.get_paginator(operation).paginate(Filters=here) for each in page[key]]

    endpoints = every("describe_vpc_endpoints", "VpcEndpoints")
    return parse_vpc(
        vpc_id,
        every("describe_subnets", "Subnets"),
        every("describe_route_tables", "RouteTables"),
        [each["ServiceName"] for each in endpoints if each.get("State", "").lower() == "available"],
    )


def default_vpc(ec2: Any) -> str | None:
    """Return the id of the region's default VPC; None where there is none."""
    found = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
    return str(found[0]["VpcId"]) if found else None
