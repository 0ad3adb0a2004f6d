"""The base class of the cluster's stacks: name, account, region, and the cluster's tag."""

from __future__ import annotations

from aws_cdk import Environment, Fn, Stack, Tags
from constructs import Construct

from node_agent.contract import names
from node_agent.contract.tags import CLUSTER_TAG
from stacks.settings import FleetSettings

_MAX_ZONES = 6
"""The most Availability Zones of a region of AWS."""


class BaseStack(Stack):
    """A stack of the cluster. part: state, model, image, fleet, events or github; description: shown in the console."""

    def __init__(self, scope: Construct, settings: FleetSettings, part: str, description: str) -> None:
        name = names.stack_name(settings.cluster, part)
        super().__init__(
            scope,
            name,
            stack_name=name,
            description=f"Synkti {settings.cluster}: {description}",
            env=Environment(account=settings.account or None, region=settings.region or None),
        )
        Tags.of(self).add(CLUSTER_TAG, settings.cluster)  # also a cost allocation tag

    @property
    def availability_zones(self) -> list[str]:
        """The region's zones by number. The CDK's own property looks their names up, which needs credentials."""
        return [Fn.select(number, Fn.get_azs()) for number in range(_MAX_ZONES)]
