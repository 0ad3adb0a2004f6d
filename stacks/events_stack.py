"""The events stack: Lambdas that record EC2's events about instances, alarms, and the dashboard."""

from __future__ import annotations

from aws_cdk import IgnoreMode
from aws_cdk import aws_lambda as lambda_
from constructs import Construct

from stacks.base_stack import BaseStack
from stacks.constructs.alarms import Alarms
from stacks.constructs.artifact import ROOT
from stacks.constructs.dashboard import Dashboard
from stacks.constructs.event_function import Code, EventFunction
from stacks.constructs.handler_specs import handler_specs
from stacks.constructs.metrics import breaker_metric, lambda_metric, missing_nodes_metric, orphaned_streams_metric
from stacks.settings import FleetSettings
from stacks.state_stack import StateStack

POWERTOOLS_LAYER = "arn:aws:lambda:{region}:017000801446:layer:AWSLambdaPowertoolsPythonV3-python313-arm64:18"
"""AWS's public layer of Powertools. boto3 is part of the runtime."""

_PACKAGE_EXCLUDES = ["*", "!lambdas", "!lambdas/**", "!node_agent", "node_agent/*", "!node_agent/__init__.py",
             "!node_agent/contract", "!node_agent/contract/**", "**/__pycache__"]  # fmt: skip
"""The package contains only the Lambdas, and the contract that they share with the agent."""

MISSING_MINUTES, MISSING_OF_MINUTES = 20, 30
"""A node may be missing while it is replaced, for 5 to 15 minutes. One that is missing for 20 of 30 minutes, at once or
in several parts, is not replaced by one that serves."""


class EventsStack(BaseStack):
    """Records and alarms. A fleet serves without this stack."""

    def __init__(self, scope: Construct, settings: FleetSettings, state: StateStack) -> None:
        super().__init__(scope, settings, "events", "reactions to EC2")
        package = lambda_.Code.from_asset(str(ROOT), exclude=_PACKAGE_EXCLUDES, ignore_mode=IgnoreMode.GIT)
        code = Code(package, [] if settings.local else [self._powertools()])
        alarms = Alarms(self, "Alarms", settings)
        functions = [
            EventFunction(self, spec, settings, code, alarms).function for spec in handler_specs(self, settings, state)
        ]
        cluster = settings.cluster
        if not settings.local:  # the embedded AWS has no sums of metrics
            alarms.alarm_when_positive(
                self,
                "Missing",
                missing_nodes_metric(cluster),
                "fewer nodes serve than desired",
                periods=MISSING_MINUTES,
                of_periods=MISSING_OF_MINUTES,
            )
        alarms.alarm_when_positive(
            self, "GaveUp", breaker_metric(cluster), "nodes of this version gave up, and launches are suspended"
        )
        alarms.alarm_when_positive(
            self,
            "NoSpot",
            lambda_metric(cluster, "CapacityLimit"),
            "spot has no capacity, and the bound is reached",
        )
        alarms.alarm_when_positive(
            self,
            "Orphans",
            orphaned_streams_metric(cluster),
            "streams of lost nodes were not resumed within five minutes",
        )
        Dashboard(self, "Board", settings, functions, alarms.alarms)

    def _powertools(self) -> lambda_.ILayerVersion:
        arn = POWERTOOLS_LAYER.format(region=self.region)
        return lambda_.LayerVersion.from_layer_version_arn(self, "Powertools", arn)
