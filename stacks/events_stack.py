"""Events: what EC2 tells of its instances, who writes it down, and who hears of it when something is wrong."""

from __future__ import annotations

from aws_cdk import IgnoreMode
from aws_cdk import aws_lambda as lambda_
from constructs import Construct

from stacks.base_stack import FleetPart
from stacks.constructs.alarms import Alarms
from stacks.constructs.artifact import ROOT
from stacks.constructs.dashboard import Dashboard, group_metric, lambda_metric
from stacks.constructs.event_function import Code, EventFunction
from stacks.constructs.handler_specs import handler_specs
from stacks.settings import FleetSettings
from stacks.state_stack import StateStack

POWERTOOLS_LAYER = "arn:aws:lambda:{region}:017000801446:layer:AWSLambdaPowertoolsPythonV3-python313-arm64:18"
"""AWS's own public layer; boto3 is in the runtime."""

_PACKAGED = ["*", "!lambdas", "!lambdas/**", "!node_agent", "node_agent/*", "!node_agent/__init__.py",
             "!node_agent/contract", "!node_agent/contract/**", "**/__pycache__"]  # fmt: skip
"""Everything is left out but the Lambdas and the contract that they share with the agent."""

_PENDING_MINUTES = 45
"""Some instance or other is on its way all the time: none of them becomes a node."""


class EventsStack(FleetPart):
    """Housekeeping after the fact: a fleet without this stack serves on."""

    def __init__(self, scope: Construct, settings: FleetSettings, state: StateStack) -> None:
        super().__init__(scope, settings, "events", "reactions to EC2")
        package = lambda_.Code.from_asset(str(ROOT), exclude=_PACKAGED, ignore_mode=IgnoreMode.GIT)
        code = Code(package, [] if settings.local else [self._powertools()])
        alarms = Alarms(self, "Alarms", settings)
        functions = [
            EventFunction(self, task, settings, code, alarms).function for task in handler_specs(self, settings, state)
        ]
        pending = group_metric(settings.cluster, "GroupPendingInstances")
        alarms.above_zero(self, "Pending", pending, "nodes do not become ready", periods=_PENDING_MINUTES)
        alarms.above_zero(
            self, "NoSpot", lambda_metric("CapacityNote"), "spot has no capacity, and the bound is reached"
        )
        Dashboard(self, "Board", settings, functions, alarms.all)

    def _powertools(self) -> lambda_.ILayerVersion:
        arn = POWERTOOLS_LAYER.format(region=self.region)
        return lambda_.LayerVersion.from_layer_version_arn(self, "Powertools", arn)
