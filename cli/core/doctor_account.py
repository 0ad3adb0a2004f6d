"""Evaluate what exists in the account already: the findings of `synkti doctor` about it."""

from __future__ import annotations

from collections.abc import Iterator

from cli.core.account_facts import missing_settings
from cli.core.doctor_inputs import DoctorInputs, Finding, Unavailable, Verdict
from cli.core.network import network_problem
from cli.core.settings_file import lines_of
from stacks.settings import FleetSettings, missing_ids


def account_findings(o: DoctorInputs) -> Iterator[Finding]:
    """Yield the findings. Those of the check `ids` are mended by `synkti bootstrap`."""
    if not isinstance(o.settings, FleetSettings):
        return
    yield from _network(o, o.settings)
    if found := missing_settings(o.settings, o.facts):
        lines = lines_of(found).replace("\n", "; ")
        yield Finding(
            "ids",
            Verdict.WARNING,
            f"synkti.toml lacks what is in the account already: {lines}",
            "synkti bootstrap writes it; commit that, so that the workflow deploys the same",
        )


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
