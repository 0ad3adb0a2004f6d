"""Collect the inputs of `synkti doctor`: account, region, this machine. What cannot be read has the reason instead."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from botocore.exceptions import ClientError

from cli.account import Account
from cli.adapters.account_facts import default_vpc
from cli.adapters.cdk import node_version, templates_of
from cli.adapters.gpu_types import describe_types, gpus_of, offered_zones
from cli.adapters.instances import Instances
from cli.adapters.model_documents import bucket_files, hub_files
from cli.adapters.models_bucket import ModelsBucket
from cli.adapters.results import result_of
from cli.adapters.stacks import Stacks
from cli.adapters.wheelhouse_bucket import WheelhouseBucket
from cli.aws_errors import error_code
from cli.core.account_facts import AccountFacts
from cli.core.cluster_key import split_fleets
from cli.core.clusters import Stack, clusters_of
from cli.core.doctor_inputs import DoctorInputs, ModelState
from cli.core.quotas import quota_of
from cli.core.result import Result, Unavailable
from cli.errors import Failed
from node_agent.contract.hub import parse_hub_name
from node_agent.contract.names import models_bucket_name
from node_agent.contract.tags import CLUSTER_TAG
from node_agent.contract.wheelhouse import PackageSet
from node_agent.core.sizing.facts import ModelFiles
from stacks.settings import FleetSettings

MIN_TOOLKIT_VERSION = 6
"""The version that templates of this generation of the CDK require; synthesized templates have the exact one."""

TOOLKIT_PARAMETER = "/cdk-bootstrap/hnb659fds/version"
_INLINE_BYTES = 51_200
"""The longest template that ValidateTemplate accepts without S3."""

_PROGRAMS = ("aws", "session-manager-plugin")
_T = TypeVar("_T")


def collect(
    account: Account,
    cluster: str,
    settings: FleetSettings | tuple[str, ...],
    templates: Result[Mapping[str, str | None]],
    facts: AccountFacts,
    required_toolkit: int = MIN_TOOLKIT_VERSION,
    files: Result[ModelFiles] | None = None,
    packages: Sequence[PackageSet] = (),
    *,
    has_file: bool = True,
    report: Callable[[str], None] = lambda step: None,
) -> DoctorInputs:
    """Collect all inputs.

    Args:
        account: account and region.
        cluster: its name.
        settings: valid ones, or their faults.
        templates: the result of their validation, passed on.
        facts: what exists in the account already, passed on.
        required_toolkit: the version of the CDK's own stack that they require.
        files: of the model that is to be uploaded; None: those of the model in the bucket are read, else those of
            `model_source` on the hub.
        packages: what nodes of this release install.
        has_file: whether a synkti.toml was found.
        report: called with what is read next; the requests take seconds together.

    Returns:
        The inputs; what cannot be read has the reason instead.
    """
    known = account.local_regions()
    wrong = Unavailable(f"{account.region} is not an AWS region") if account.region not in known else None
    caller = wrong if wrong is not None else result_of(lambda: account.identity.arn)
    # Without credentials every other request would fail too, each after some time.
    skipped = Unavailable("not looked at: there are no valid credentials") if isinstance(caller, Unavailable) else None

    def attempt(query: Callable[[], _T], what: str = "") -> Result[_T]:
        if what:
            report(f"looking at {account.region}: {what}")
        return result_of(query) if skipped is None else wrong or skipped

    types = settings.instance_types if isinstance(settings, FleetSettings) else ()
    ec2 = account.client("ec2")
    described = attempt(lambda: describe_types(ec2, types))
    return DoctorInputs(
        facts=facts,
        settings=settings,
        cluster=cluster,
        region=account.region,
        node_version=node_version(),
        programs=frozenset(name for name in _PROGRAMS if shutil.which(name)),
        account=attempt(lambda: account.identity.account),
        caller=caller,
        regions=known if wrong else attempt(lambda: _regions(ec2)),
        zones=attempt(lambda: _zones(ec2)),
        vcpus=described if isinstance(described, Unavailable) else _vcpus(described),
        gpus=described if isinstance(described, Unavailable) else gpus_of(described),
        offerings=attempt(lambda: offered_zones(ec2, types), "instance types"),
        quotas=attempt(lambda: _quotas(account, types), "quotas"),
        default_vpc=attempt(lambda: default_vpc(ec2)),
        toolkit=attempt(lambda: toolkit_version(account)),
        required_toolkit=required_toolkit,
        stacks=attempt(lambda: _stacks(account, cluster), "stacks"),
        model=attempt(lambda: _model_state(account, cluster, settings), "the model"),
        files=files or attempt(lambda: _model_files(account, cluster, settings)),
        lacking_packages=attempt(lambda: _lacking_packages(account, cluster, packages), "packages"),
        templates=templates if isinstance(templates, Unavailable) else attempt(lambda: templates),
        fleets=attempt(lambda: split_fleets(Instances(ec2, cluster).nodes()), "nodes"),
        has_file=has_file,
        counts_tag=attempt(lambda: _counts_tag(account, settings)),
    )


def _stacks(account: Account, cluster: str) -> Sequence[Stack]:
    return clusters_of(Stacks(account.client("cloudformation")).list_stacks()).get(cluster, ())


def toolkit_version(account: Account) -> int | None:
    """Return the version of the CDK's own stack; None where the region has none."""
    try:
        answer = account.client("ssm").get_parameter(Name=TOOLKIT_PARAMETER)
    except ClientError as error:
        if error_code(error) == "ParameterNotFound":
            return None
        raise
    return int(answer["Parameter"]["Value"])


def validate_templates(account: Account, assembly: Path) -> dict[str, str | None]:
    """Return CloudFormation's error for each template; "" for none, None where the template is too long to validate."""
    client = account.client("cloudformation")
    return {name: _template_fault(client, path.read_text()) for name, path in templates_of(assembly).items()}


def _template_fault(client: Any, body: str) -> str | None:
    if len(body.encode()) > _INLINE_BYTES:
        return None
    try:
        client.validate_template(TemplateBody=body)
    except ClientError as error:
        if error_code(error) != "ValidationError":
            raise
        return str(error.response["Error"].get("Message", error))
    return ""


def _counts_tag(account: Account, settings: FleetSettings | tuple[str, ...]) -> bool | None:
    """Return whether the cluster's tag is an active cost allocation tag; None where no budget needs it."""
    if not isinstance(settings, FleetSettings) or not settings.budget_usd or settings.budget_scope != "cluster":
        return None
    found = account.client("ce").list_cost_allocation_tags(TagKeys=[CLUSTER_TAG], Status="Active")
    return any(each["TagKey"] == CLUSTER_TAG for each in found["CostAllocationTags"])


def _regions(ec2: Any) -> frozenset[str]:
    return frozenset(each["RegionName"] for each in ec2.describe_regions()["Regions"])


def _zones(ec2: Any) -> int:
    zones = ec2.describe_availability_zones(Filters=[{"Name": "zone-type", "Values": ["availability-zone"]}])
    return len(zones["AvailabilityZones"])


def _vcpus(described: Sequence[dict[str, Any]]) -> dict[str, int]:
    return {str(each["InstanceType"]): int(each["VCpuInfo"]["DefaultVCpus"]) for each in described}


def _quotas(account: Account, types: tuple[str, ...]) -> dict[str, float]:
    """Return the quotas that apply to the types, by code; those that do not exist are skipped."""
    if account.is_embedded:
        raise Failed("the embedded AWS has no Service Quotas")
    client = account.client("service-quotas")
    codes = {quota.code for each in types for spot in (True, False) if (quota := quota_of(each, spot=spot))}
    found = {}
    for code in sorted(codes):
        try:
            found[code] = float(client.get_service_quota(ServiceCode="ec2", QuotaCode=code)["Quota"]["Value"])
        except ClientError as error:
            if error_code(error) != "NoSuchResourceException":
                raise
    return found


def _model_state(account: Account, cluster: str, settings: FleetSettings | tuple[str, ...]) -> ModelState:
    if not isinstance(settings, FleetSettings):
        return ModelState(bucket=False)
    name = models_bucket_name(cluster, account.identity.account, account.region)
    return model_state(ModelsBucket(account.client("s3"), name), settings.model)


def _model_files(account: Account, cluster: str, settings: FleetSettings | tuple[str, ...]) -> ModelFiles | None:
    if not isinstance(settings, FleetSettings):
        return None
    name = models_bucket_name(cluster, account.identity.account, account.region)
    there = bucket_files(ModelsBucket(account.client("s3"), name), settings.model)
    return (
        hub_files(parse_hub_name(settings.model_source), os.environ) if not there and settings.model_source else there
    )


def _lacking_packages(account: Account, cluster: str, packages: Sequence[PackageSet]) -> tuple[str, ...] | None:
    client, name = account.client("s3"), models_bucket_name(cluster, account.identity.account, account.region)
    if not ModelsBucket(client, name).exists():
        return None
    bucket = WheelhouseBucket(client, name)
    return tuple(each.name for each in packages if not bucket.is_complete(each))


def model_state(bucket: ModelsBucket, model: str) -> ModelState:
    """Return whether the bucket has the model, and which of its files are missing."""
    if not bucket.exists():
        return ModelState(bucket=False)
    manifest = bucket.manifest(model)
    if manifest is None:
        return ModelState(bucket=True)
    sizes = bucket.sizes(model)
    missing = tuple(file.path for file in manifest.files if sizes.get(file.path) != file.size)
    return ModelState(bucket=True, manifest=True, missing=missing, digest=manifest.digest)


def resource_exists(account: Account, kind: str, name: str) -> bool:
    """Return True where the account has a bucket or table of this name. Raises ValueError for other kinds."""
    if kind == "AWS::S3::Bucket":
        return ModelsBucket(account.client("s3"), name, owner=account.identity.account).exists()
    if kind == "AWS::SecretsManager::Secret":
        return True  # it is named by its ARN, which only an existing one has (`secret_arn`)
    if kind != "AWS::DynamoDB::Table":
        raise ValueError(f"unsupported resource type {kind}")
    try:
        account.client("dynamodb").describe_table(TableName=name)
    except ClientError as error:
        if error_code(error) == "ResourceNotFoundException":
            return False
        raise
    return True


def secret_arn(account: Account, name: str) -> str | None:
    """Return a secret's ARN; None where there is none, or it is being deleted. Raises ClientError."""
    try:
        found = account.client("secretsmanager").describe_secret(SecretId=name)
    except ClientError as error:
        if error_code(error) == "ResourceNotFoundException":
            return None
        raise
    return None if "DeletedDate" in found else str(found["ARN"])
