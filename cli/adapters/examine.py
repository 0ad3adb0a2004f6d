"""Looks at the account, the region and this machine, for `synkti doctor`. Whatever cannot be seen says why."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from cli.account import Account
from cli.adapters.cdk import node_version, templates_of
from cli.adapters.models_bucket import ModelsBucket
from cli.adapters.stacks import Stacks
from cli.aws_errors import error_code, explained
from cli.core.clusters import clusters_of
from cli.core.doctor_inputs import DoctorInputs, ModelSeen, Seen, Unavailable
from cli.core.quotas import quota_of
from cli.errors import CliError, Failed
from node_agent.contract.errors import SynktiError
from node_agent.contract.names import models_bucket_name
from stacks.settings import FleetSettings

LEAST_TOOLKIT = 6
"""What templates of this generation of the CDK ask for; the synthesized ones say it exactly."""

TOOLKIT_PARAMETER = "/cdk-bootstrap/hnb659fds/version"
_INLINE_BYTES = 51_200
"""The longest template that ValidateTemplate takes without S3."""

_PROGRAMS = ("aws", "session-manager-plugin")
_T = TypeVar("_T")


def seen(look: Callable[[], _T]) -> Seen[_T]:
    """What `look` gives, or why it could not be seen."""
    try:
        return look()
    except (BotoCoreError, ClientError) as error:
        return Unavailable(explained(error).message)
    except CliError as error:
        return Unavailable(error.message)
    except SynktiError as error:
        return Unavailable(str(error))


def examine(
    account: Account,
    cluster: str,
    settings: FleetSettings | tuple[str, ...],
    templates: Seen[Mapping[str, str | None]],
    needed_toolkit: int = LEAST_TOOLKIT,
) -> DoctorInputs:
    """settings: those that hold, or what is wrong with them; templates: what was found of them already."""
    known = account.known_regions()
    wrong = Unavailable(f"{account.region} is no region of AWS") if account.region not in known else None
    caller = wrong if wrong is not None else seen(lambda: account.identity.arn)
    # Without credentials nothing else can be asked, and each question would take its time to fail.
    blind = Unavailable("not looked at: there are no valid credentials") if isinstance(caller, Unavailable) else None

    def ask(look: Callable[[], _T]) -> Seen[_T]:
        return seen(look) if blind is None else wrong or blind

    types = settings.instance_types if isinstance(settings, FleetSettings) else ()
    ec2 = account.client("ec2")
    return DoctorInputs(
        settings=settings,
        cluster=cluster,
        region=account.region,
        node=node_version(),
        programs=frozenset(name for name in _PROGRAMS if shutil.which(name)),
        account=ask(lambda: account.identity.account),
        caller=caller,
        regions=known if wrong else ask(lambda: _regions(ec2)),
        zones=ask(lambda: _zones(ec2)),
        vcpus=ask(lambda: _vcpus(ec2, types)),
        offered=ask(lambda: _offered(ec2, types)),
        quotas=ask(lambda: _quotas(account, types)),
        default_vpc=ask(lambda: _default_vpc(ec2)),
        toolkit=ask(lambda: toolkit_version(account)),
        needed_toolkit=needed_toolkit,
        stacks=ask(lambda: clusters_of(Stacks(account.client("cloudformation")).every()).get(cluster, ())),
        model=ask(lambda: _model(account, cluster, settings)),
        templates=templates if isinstance(templates, Unavailable) else ask(lambda: templates),
    )


def toolkit_version(account: Account) -> int | None:
    """The version of the CDK's own stack; None where the region has none."""
    try:
        answer = account.client("ssm").get_parameter(Name=TOOLKIT_PARAMETER)
    except ClientError as error:
        if error_code(error) == "ParameterNotFound":
            return None
        raise
    return int(answer["Parameter"]["Value"])


def validated(account: Account, assembly: Path) -> dict[str, str | None]:
    """What CloudFormation says against each template; "" for nothing, None where it is too long to be asked about."""
    client = account.client("cloudformation")
    return {name: _fault(client, path.read_text()) for name, path in templates_of(assembly).items()}


def _fault(client: Any, body: str) -> str | None:
    if len(body.encode()) > _INLINE_BYTES:
        return None
    try:
        client.validate_template(TemplateBody=body)
    except ClientError as error:
        if error_code(error) != "ValidationError":
            raise
        return str(error.response["Error"].get("Message", error))
    return ""


def _regions(ec2: Any) -> frozenset[str]:
    return frozenset(each["RegionName"] for each in ec2.describe_regions()["Regions"])


def _zones(ec2: Any) -> int:
    zones = ec2.describe_availability_zones(Filters=[{"Name": "zone-type", "Values": ["availability-zone"]}])
    return len(zones["AvailabilityZones"])


def _vcpus(ec2: Any, types: tuple[str, ...]) -> dict[str, int]:
    """Of the types that the region has; the others are left out."""
    pages = ec2.get_paginator("describe_instance_types").paginate(
        Filters=[{"Name": "instance-type", "Values": list(types)}]
    )
    every = [each for page in pages for each in page["InstanceTypes"]]
    return {each["InstanceType"]: int(each["VCpuInfo"]["DefaultVCpus"]) for each in every}


def _offered(ec2: Any, types: tuple[str, ...]) -> dict[str, frozenset[str]]:
    pages = ec2.get_paginator("describe_instance_type_offerings").paginate(
        LocationType="availability-zone", Filters=[{"Name": "instance-type", "Values": list(types)}]
    )
    found: dict[str, set[str]] = {}
    for page in pages:
        for each in page["InstanceTypeOfferings"]:
            found.setdefault(each["InstanceType"], set()).add(each["Location"])
    return {each: frozenset(zones) for each, zones in found.items()}


def _quotas(account: Account, types: tuple[str, ...]) -> dict[str, float]:
    """Every quota that the types count against, by its code; one that cannot be found is left out."""
    if account.embedded:
        raise Failed("the embedded AWS has no Service Quotas")
    client = account.client("service-quotas")
    asked = {quota.code for each in types for spot in (True, False) if (quota := quota_of(each, spot=spot))}
    found = {}
    for code in sorted(asked):
        try:
            found[code] = float(client.get_service_quota(ServiceCode="ec2", QuotaCode=code)["Quota"]["Value"])
        except ClientError as error:
            if error_code(error) != "NoSuchResourceException":
                raise
    return found


def _default_vpc(ec2: Any) -> str | None:
    found = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
    return str(found[0]["VpcId"]) if found else None


def _model(account: Account, cluster: str, settings: FleetSettings | tuple[str, ...]) -> ModelSeen:
    if not isinstance(settings, FleetSettings):
        return ModelSeen(bucket=False)
    name = models_bucket_name(cluster, account.identity.account, account.region)
    return model_seen(ModelsBucket(account.client("s3"), name), settings.model)


def model_seen(bucket: ModelsBucket, model: str) -> ModelSeen:
    """Whether the bucket has the model, and all of it."""
    if not bucket.exists():
        return ModelSeen(bucket=False)
    manifest = bucket.manifest(model)
    if manifest is None:
        return ModelSeen(bucket=True)
    sizes = bucket.sizes(model)
    missing = tuple(file.path for file in manifest.files if sizes.get(file.path) != file.size)
    return ModelSeen(bucket=True, manifest=True, missing=missing, digest=manifest.digest)


def is_there(account: Account, kind: str, name: str) -> bool:
    """Whether the account has a bucket or a table of this name. Raises ValueError for other kinds."""
    if kind == "AWS::S3::Bucket":
        return ModelsBucket(account.client("s3"), name).exists()
    if kind != "AWS::DynamoDB::Table":
        raise ValueError(f"no {kind} is looked for")
    try:
        account.client("dynamodb").describe_table(TableName=name)
    except ClientError as error:
        if error_code(error) == "ResourceNotFoundException":
            return False
        raise
    return True
