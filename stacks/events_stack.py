"""Events: what EC2 tells of its instances, and who writes it down."""

from __future__ import annotations

from pathlib import Path

from aws_cdk import IgnoreMode
from aws_cdk import aws_lambda as lambda_
from constructs import Construct

from node_agent.contract import names
from node_agent.contract.notices import INTERRUPTION_EVENT, REBALANCE_EVENT, STATE_CHANGE_EVENT
from stacks.parts.reaction import Code, Reaction
from stacks.settings import FleetSettings
from stacks.stack import FleetPart
from stacks.state_stack import StateStack

REACTIONS = {
    "node_interrupted": INTERRUPTION_EVENT,
    "node_rebalance_recommended": REBALANCE_EVENT,
    "node_state_changed": STATE_CHANGE_EVENT,
}
"""The module in lambdas/handlers, and the event that it is for."""

POWERTOOLS_LAYER = "arn:aws:lambda:{region}:017000801446:layer:AWSLambdaPowertoolsPythonV3-python313-arm64:18"
"""AWS's own public layer; boto3 is in the runtime."""

_ROOT = Path(__file__).parent.parent
_PACKAGED = ["*", "!lambdas", "!lambdas/**", "!node_agent", "node_agent/*", "!node_agent/__init__.py",
             "!node_agent/contract", "!node_agent/contract/**", "**/__pycache__"]  # fmt: skip
"""Everything is left out but the Lambdas and the contract that they share with the agent."""


class EventsStack(FleetPart):
    """Housekeeping after the fact: a fleet without this stack serves on."""

    def __init__(self, scope: Construct, settings: FleetSettings, state: StateStack) -> None:
        super().__init__(scope, settings, "events", "reactions to EC2")
        package = lambda_.Code.from_asset(str(_ROOT), exclude=_PACKAGED, ignore_mode=IgnoreMode.GIT)
        code = Code(package, [] if settings.local else [self._powertools()])
        sources = [names.EC2_EVENT_SOURCE, *([names.DRILL_EVENT_SOURCE] if settings.drills else [])]
        for handler, detail_type in REACTIONS.items():
            Reaction(self, handler, detail_type, sources, settings=settings, state=state, code=code)

    def _powertools(self) -> lambda_.ILayerVersion:
        arn = POWERTOOLS_LAYER.format(region=self.region)
        return lambda_.LayerVersion.from_layer_version_arn(self, "Powertools", arn)
