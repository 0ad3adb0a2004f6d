"""The events stack: Lambdas that record EC2's events about instances, alarms, the dashboard, and the budget."""

from __future__ import annotations

from constructs import Construct

from stacks.base_stack import BaseStack
from stacks.constructs.alarms import Alarms
from stacks.constructs.budget import Budget
from stacks.constructs.dashboard import Dashboard
from stacks.constructs.event_function import EventFunction
from stacks.constructs.handler_specs import handler_specs
from stacks.constructs.lambda_package import lambda_code
from stacks.constructs.metrics import breaker_metric, lambda_metric, missing_nodes_metric
from stacks.settings import FleetSettings
from stacks.state_stack import StateStack

MISSING_MINUTES, MISSING_OF_MINUTES = 20, 30
"""A node may be missing while it is replaced, for 5 to 15 minutes. One that is missing for 20 of 30 minutes, at once or
in several parts, is not replaced by one that serves."""


class EventsStack(BaseStack):
    """Records and alarms. A fleet serves without this stack."""

    def __init__(self, scope: Construct, settings: FleetSettings, state: StateStack) -> None:
        super().__init__(scope, settings, "events", "reactions to EC2")
        code = lambda_code(self, layers=not settings.local)
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
        if settings.budget_usd:
            Budget(self, "Budget", settings)
