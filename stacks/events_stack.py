"""The events stack: Lambdas that record EC2's events about instances, alarms, and the dashboard."""

from __future__ import annotations

from aws_cdk import IgnoreMode
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_ssm as ssm
from constructs import Construct

from stacks.base_stack import BaseStack
from stacks.constructs.alarms import Alarms
from stacks.constructs.artifact import ROOT
from stacks.constructs.dashboard import Dashboard
from stacks.constructs.event_function import Code, EventFunction
from stacks.constructs.handler_specs import handler_specs
from stacks.constructs.metrics import breaker_metric, lambda_metric, missing_nodes_metric
from stacks.settings import FleetSettings
from stacks.state_stack import StateStack

POWERTOOLS_VERSION = "3.37.0"
"""The version that the tests run with; a test compares it with the installed one."""

POWERTOOLS_PARAMETER = f"/aws/service/powertools/python/arm64/python3.13/{POWERTOOLS_VERSION}"
"""AWS's public parameter with the ARN of the layer of this version in each region. boto3 is part of the runtime.

Source: Powertools' documentation, "Lambda Layer", "SSM Parameter Store".
"""

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
        Dashboard(self, "Board", settings, functions, alarms.alarms)

    def _powertools(self) -> lambda_.ILayerVersion:
        arn = ssm.StringParameter.value_for_string_parameter(self, POWERTOOLS_PARAMETER)
        return lambda_.LayerVersion.from_layer_version_arn(self, "Powertools", arn)
