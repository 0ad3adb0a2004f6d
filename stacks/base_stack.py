"""What all stacks of one fleet have in common: names, the account and region, a tag that says whose they are."""

from __future__ import annotations

from aws_cdk import Environment, Stack, Tags
from constructs import Construct

from node_agent.contract import names
from node_agent.contract.tags import CLUSTER_TAG
from stacks.settings import FleetSettings


class FleetPart(Stack):
    """part: state, image, fleet, events or github; told: what a person reads in the console."""

    def __init__(self, scope: Construct, settings: FleetSettings, part: str, told: str) -> None:
        name = names.stack_name(settings.cluster, part)
        super().__init__(
            scope,
            name,
            stack_name=name,
            description=f"Synkti {settings.cluster}: {told}",
            env=Environment(account=settings.account or None, region=settings.region or None),
        )
        Tags.of(self).add(CLUSTER_TAG, settings.cluster)  # what a bill can be divided by
