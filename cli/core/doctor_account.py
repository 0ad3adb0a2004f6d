"""Evaluate what exists in the account already: the findings of `synkti doctor` about it."""

from __future__ import annotations

from collections.abc import Iterator

from cli.core.account_facts import missing_settings
from cli.core.doctor_inputs import DoctorInputs, Finding, Verdict
from cli.core.domain import domain_problem
from cli.core.github import provider_problem, repository_problem
from cli.core.network import network_problem
from cli.core.result import Unavailable
from cli.core.settings_file import lines_of
from node_agent.contract.tags import CLUSTER_TAG
from stacks.settings import FleetSettings, missing_ids


def account_findings(o: DoctorInputs) -> Iterator[Finding]:
    """Yield the findings. Those of the check `ids` are mended by `synkti bootstrap`."""
    if not isinstance(o.settings, FleetSettings):
        return
    yield from _network(o, o.settings)
    if o.settings.github_repository:
        yield _provider(o, o.settings)
        yield _repository(o, o.settings)
    yield from _image(o, o.settings)
    yield from _budget(o, o.settings)
    if o.settings.hosted_zone_id:
        yield _domain(o, o.settings)
    yield from _keys(o)
    if found := missing_settings(o.settings, o.facts):
        lines = lines_of(found).replace("\n", "; ")
        yield Finding(
            "ids",
            Verdict.WARNING,
            f"synkti.toml lacks what is in the account already: {lines}",
            "synkti bootstrap writes it; commit that, so that the workflow deploys the same",
        )


def _provider(o: DoctorInputs, settings: FleetSettings) -> Finding:
    provider = o.facts.provider
    if isinstance(provider, Unavailable):
        return Finding("github trust", Verdict.UNKNOWN, provider.reason)
    problem, advice = provider_problem(settings, provider)
    if problem:
        return Finding("github trust", Verdict.FAULT, problem, advice)
    found = "the stack creates GitHub's identity provider" if provider is None else provider.arn
    return Finding("github trust", Verdict.OK, found)


def _repository(o: DoctorInputs, settings: FleetSettings) -> Finding:
    repository, name = o.facts.repository, settings.github_repository
    if isinstance(repository, Unavailable) or repository is None:
        reason = repository.reason if isinstance(repository, Unavailable) else "not looked at"
        if settings.github_repository_id:
            return Finding("github repository", Verdict.UNKNOWN, reason)
        return Finding(
            "github repository",
            Verdict.WARNING,
            f"{reason}; without its numbers a repository created, renamed or moved since 2026-07-15 cannot deploy",
            f"set github_owner_id and github_repository_id to what this prints: gh api repos/{name} "
            "--jq '[.owner.id, .id]'",
        )
    problem, advice = repository_problem(settings, repository)
    if problem:
        return Finding("github repository", Verdict.FAULT, problem, advice)
    return Finding("github repository", Verdict.OK, f"{name}, number {repository.repository_id}")


def _budget(o: DoctorInputs, settings: FleetSettings) -> Iterator[Finding]:
    """Judge a budget of the cluster: before its tag is activated it counts nothing, and never sends mail."""
    if not settings.budget_usd or settings.budget_scope != "cluster":
        return
    if isinstance(o.counts_tag, Unavailable):
        advice = "only the account that pays may read it: look at Cost allocation tags in its billing console"
        yield Finding(
            "budget", Verdict.UNKNOWN, f"whether bills have the tag {CLUSTER_TAG}: {o.counts_tag.reason}", advice
        )
    elif o.counts_tag:
        yield Finding("budget", Verdict.OK, f"${settings.budget_usd:,} a month, of what has the tag {CLUSTER_TAG}")
    else:
        found = f"the budget counts nothing: {CLUSTER_TAG} is no active cost allocation tag"
        advice = (
            "activate it in the billing console of the account that pays, a day after the first deployment; "
            'or set budget_scope = "account"'
        )
        yield Finding("budget", Verdict.WARNING, found, advice)


def _image(o: DoctorInputs, settings: FleetSettings) -> Iterator[Finding]:
    image, configured = o.facts.image, settings.image_id or settings.base_image_id
    if isinstance(image, Unavailable):
        yield Finding("machine image", Verdict.UNKNOWN, image.reason)
    elif not image.is_there:
        name = "image_id" if settings.image_id else "base_image_id"
        advice = f"set {name} to an image of this region" + (f", such as {image.newest}" if image.newest else "")
        yield Finding("machine image", Verdict.FAULT, f"{o.region} has no image {configured}", advice)
    elif not configured and not image.newest:
        advice = "set image_id to an image of your own, or choose another region"
        yield Finding("machine image", Verdict.WARNING, f"AWS names no GPU image in {o.region}", advice)
    elif settings.root_gib < image.root_gib:
        # EC2 launches no instance whose volume is smaller than its snapshot.
        used = configured or image.newest
        found = f"root_gib = {settings.root_gib}, and the root volume of {used} has {image.root_gib} GiB"
        yield Finding("machine image", Verdict.FAULT, found, f"set root_gib = {image.root_gib} or more")
    else:
        newer = f"; AWS's newest is {image.newest}" if image.newest not in ("", configured) and configured else ""
        yield Finding("machine image", Verdict.OK, f"{configured or image.newest}{newer}")


def _domain(o: DoctorInputs, settings: FleetSettings) -> Finding:
    zone = o.facts.zone
    if isinstance(zone, Unavailable):
        return Finding("domain", Verdict.UNKNOWN, zone.reason)
    problem, advice = domain_problem(settings.domain, settings.hosted_zone_id, zone)
    if problem:
        return Finding("domain", Verdict.FAULT, problem, advice)
    return Finding("domain", Verdict.OK, f"{settings.domain} gets its record in {settings.hosted_zone_id}")


def _keys(o: DoctorInputs) -> Iterator[Finding]:
    """Yield a finding for each key of the account's own; whether its policy allows what is needed is not read."""
    keys = o.facts.keys
    if isinstance(keys, Unavailable):
        yield Finding("encryption keys", Verdict.UNKNOWN, keys.reason)
        return
    if keys.volumes:
        role = f"arn:aws:iam::{o.account}:role/aws-service-role/autoscaling.amazonaws.com/AWSServiceRoleForAutoScaling"
        yield Finding(
            "encryption keys",
            Verdict.WARNING,
            f"EBS encrypts with {keys.volumes} here: without a grant Auto Scaling launches no node",
            f"if its key policy does not allow it: aws kms create-grant --key-id {keys.volumes} --region {o.region} "
            f"--grantee-principal {role} --operations Encrypt Decrypt ReEncryptFrom ReEncryptTo GenerateDataKey "
            "GenerateDataKeyWithoutPlaintext DescribeKey CreateGrant",
        )
    if keys.assets:
        yield Finding(
            "encryption keys",
            Verdict.WARNING,
            f"the CDK's bucket encrypts with {keys.assets}: nodes read the agent from it",
            "its key policy has to let the account's principals use kms:Decrypt through S3 (kms:ViaService), as the "
            "key that cdk bootstrap --bootstrap-customer-key makes does",
        )
    if not keys.volumes and not keys.assets:
        yield Finding("encryption keys", Verdict.OK, "AWS's own keys")


def _network(o: DoctorInputs, settings: FleetSettings) -> Iterator[Finding]:
    if settings.vpc == "new":
        return
    vpc = o.facts.vpc
    if isinstance(vpc, Unavailable):
        yield Finding("network", Verdict.UNKNOWN, vpc.reason)
        return
    if vpc is None:  # the check of the default VPC has its own fault
        return
    lacking = set(missing_ids(settings)) - set(missing_settings(settings, o.facts))
    if lacking:
        kind = "public" if settings.public_addresses else "private"
        found = f"{vpc.vpc_id} has no {kind} subnets, so {', '.join(sorted(lacking))} cannot be found"
        advice = 'name the nodes\' subnets yourself, choose another VPC, or set vpc = "new"'
        yield Finding("network", Verdict.FAULT, found, advice)
        return
    if missing_ids(settings):
        return
    problem, advice = network_problem(settings, vpc)
    if problem:
        yield Finding("network", Verdict.FAULT, problem, advice)
    else:
        count = len(settings.subnet_ids)
        yield Finding("network", Verdict.OK, f"{count} subnets of {vpc.vpc_id}; nodes reach what they need")
