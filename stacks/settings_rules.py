"""Combinations of settings that are invalid although each of the settings is valid."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # settings.py imports this module, to validate what it has read
    from stacks.settings import FleetSettings

BUDGET_REGIONS = frozenset(
    {
        "ap-northeast-1", "ap-northeast-2", "ap-south-1", "ap-southeast-1", "ap-southeast-2", "ca-central-1",
        "eu-central-1", "eu-west-1", "eu-west-2", "eu-west-3", "me-south-1", "sa-east-1", "us-east-1", "us-east-2",
        "us-west-1", "us-west-2",
    }
)  # fmt: skip
"""The regions where CloudFormation has AWS::Budgets::Budget. A test compares them with its schemas."""

NO_BUILD_REGIONS = frozenset({"ap-east-2", "ca-west-1", "mx-central-1"})
"""The regions where CloudFormation has no AWS::CodeBuild::Project. A test compares them with its schemas."""

Rules = tuple[tuple[bool, str], ...]
"""Whether a rule is broken, and the message for that."""


def validation_errors(settings: FleetSettings) -> list[str]:
    """Return a message for each combination of settings that is invalid although each setting is valid."""
    rules = (
        *_size_rules(settings),
        *_network_rules(settings),
        *_domain_rules(settings),
        *_budget_rules(settings),
        *_hub_rules(settings),
        *_image_rules(settings),
        *_repository_rules(settings),
    )
    return [message for broken, message in rules if broken]


def _size_rules(s: FleetSettings) -> Rules:
    least, most = (s.min_nodes, s.max_nodes) if s.is_autoscaled else (s.nodes, s.nodes)
    return (
        (least > most, f"min_nodes={least}: more than max_nodes={most}"),
        (s.on_demand_base > most, f"on_demand_base={s.on_demand_base}: more than the {most} nodes there may be"),
    )


def _network_rules(s: FleetSettings) -> Rules:
    ids = {
        "vpc_id": s.vpc_id,
        "subnet_ids": ",".join(s.subnet_ids),
        "route_table_ids": ",".join(s.route_table_ids),
    }
    return (
        (s.vpc == "existing" and not s.vpc_id, "vpc=existing: vpc_id has to say which"),
        *(
            (s.vpc == "new" and bool(value), f"{name}={value}: vpc=new makes its own; set vpc=existing")
            for name, value in ids.items()
        ),
        (
            s.vpc != "new" and not (s.account and s.region),
            f"vpc={s.vpc}: account and region have to be set, because the VPC is there",
        ),
        (
            s.vpc != "existing" and not s.public_addresses,
            f"public_addresses=false: the subnets of vpc={s.vpc} have no other way out",
        ),
        (
            s.load_balancer == "public" and not s.public_addresses,
            "load_balancer=public: it is in the nodes' subnets, and public_addresses=false makes these private",
        ),
        (
            s.interface_endpoints and s.public_addresses,
            "interface_endpoints=true: nodes with public addresses do not use them; set public_addresses = false",
        ),
        (
            s.load_balancer != "none" and not s.client_cidrs,
            f"load_balancer={s.load_balancer}: client_cidrs has to say for whom",
        ),
    )


def _domain_rules(s: FleetSettings) -> Rules:
    """Return the rules for the name and the certificate of the load balancer."""
    balanced = s.load_balancer != "none"
    return (
        (bool(s.certificate_arn) and not balanced, "certificate_arn: there is no load balancer that would use it"),
        (bool(s.domain) and not balanced, f"domain={s.domain}: there is no load balancer that it would name"),
        (
            bool(s.certificate_arn) and balanced and not s.domain,
            "certificate_arn: domain has to be a name in the certificate; none is for the load balancer's own name",
        ),
        (bool(s.hosted_zone_id) and not s.domain, "hosted_zone_id: domain has to say for which name"),
        (
            bool(s.domain) and balanced and not (s.hosted_zone_id or s.certificate_arn),
            f"domain={s.domain}: set hosted_zone_id, where the record and the certificate are made "
            "(aws route53 list-hosted-zones), or certificate_arn",
        ),
    )


def _budget_rules(s: FleetSettings) -> Rules:
    return (
        (
            bool(s.budget_usd) and not s.alarm_email,
            f"budget_usd={s.budget_usd}: alarm_email has to say who gets its mail",
        ),
        (
            bool(s.budget_usd) and bool(s.region) and s.region not in BUDGET_REGIONS,
            f"budget_usd={s.budget_usd}: CloudFormation has no budgets in {s.region}; create one in AWS's console",
        ),
    )


def _hub_rules(s: FleetSettings) -> Rules:
    return (
        (
            bool(s.model_source) and s.region in NO_BUILD_REGIONS,
            f"model_source={s.model_source}: {s.region} has no CodeBuild, which copies models from a hub; "
            "download the model, and push its folder: synkti model push DIR",
        ),
    )


def _image_rules(s: FleetSettings) -> Rules:
    return (
        (s.bake_model and not s.bake_image, "bake_model=true: bake_image=true is what makes an image"),
        (s.bake_model and not s.model_sha256, "bake_model=true: model_sha256 has to say which weights are baked"),
        (s.bake_image and bool(s.image_id), f"image_id={s.image_id}: bake_image=true makes one; choose"),
        (s.bake_model and s.model_load == "stream", "model_load=stream: a model in the image is not in S3"),
    )


def _repository_rules(s: FleetSettings) -> Rules:
    numbers = bool(s.github_owner_id), bool(s.github_repository_id)
    return (
        (
            bool(s.github_repository) and not (s.account and s.region),
            f"github_repository={s.github_repository}: account and region have to be set; the workflow reads them here",
        ),
        (
            bool(s.github_oidc_provider) and not s.github_repository,
            "github_oidc_provider: github_repository has to say who it is for",
        ),
        (
            any(numbers) and not s.github_repository,
            "github_owner_id, github_repository_id: github_repository has to say whose they are",
        ),
        (
            any(numbers) and not all(numbers),
            "github_owner_id, github_repository_id: a token has both; set both or none",
        ),
    )
