"""The events stack: Lambdas that record EC2's events about instances, alarms, the dashboard, and the budget."""

from __future__ import annotations

from constructs import Construct

from node_agent.contract import names
from stacks.base_stack import BaseStack
from stacks.constructs.alarms import Alarms, AlarmSpec
from stacks.constructs.budget import Budget
from stacks.constructs.dashboard import Dashboard
from stacks.constructs.event_function import EventFunction
from stacks.constructs.handler_specs import handler_specs
from stacks.constructs.lambda_package import lambda_code
from stacks.constructs.metrics import breaker_metric, cluster_metric, missing_nodes_metric, orphaned_streams_metric
from stacks.settings import FleetSettings
from stacks.state_stack import StateStack

MISSING_MINUTES, MISSING_OF_MINUTES = 20, 30
"""A node may be missing while it is replaced, for 5 to 15 minutes. One that is missing for 20 of 30 minutes, at once or
in several parts, is not replaced by one that serves."""

PAUSE_S = 10
UNREPLICATED_PERIODS = 3
"""Of five minutes. A lost replica is replaced in a second: a few events without one are no reason to wake anybody."""


class EventsStack(BaseStack):
    """Records and alarms. A fleet serves without this stack."""

    def __init__(self, scope: Construct, settings: FleetSettings, state: StateStack) -> None:
        super().__init__(scope, settings, "events", "reactions to EC2")
        code = lambda_code(self, layers=not settings.local)
        alarms = Alarms(self, "Alarms", settings)
        functions = [
            EventFunction(self, spec, settings, code, alarms).function for spec in handler_specs(self, settings, state)
        ]
        self._add_fleet_alarms(alarms, settings)
        self._add_promise_alarms(alarms, settings)
        Dashboard(self, "Board", settings, functions, alarms.alarms)
        if settings.budget_usd:
            Budget(self, "Budget", settings)

    def _add_fleet_alarms(self, alarms: Alarms, settings: FleetSettings) -> None:
        """Add the alarms of the fleet's size."""
        cluster = settings.cluster
        if not settings.local:  # the embedded AWS has no sums of metrics
            missing = AlarmSpec(
                "nodes-missing",
                "fewer nodes serve than desired",
                periods=MISSING_MINUTES,
                of_periods=MISSING_OF_MINUTES,
            )
            alarms.add(self, "Missing", missing_nodes_metric(cluster), missing)
        gave_up = AlarmSpec("launches-suspended", "nodes of this version gave up, and launches are suspended")
        alarms.add(self, "GaveUp", breaker_metric(cluster), gave_up)
        no_spot = AlarmSpec("no-spot-capacity", "spot has no capacity, and the bound is reached")
        alarms.add(self, "NoSpot", cluster_metric(cluster, "CapacityLimit"), no_spot)

    def _add_promise_alarms(self, alarms: Alarms, settings: FleetSettings) -> None:
        """Add the alarms of the promise: an interruption costs a client a pause, never a token."""
        cluster = settings.cluster
        orphans = AlarmSpec("orphaned-streams", "streams of lost nodes were not resumed within five minutes")
        alarms.add(self, "Orphans", orphaned_streams_metric(cluster), orphans)
        broken = AlarmSpec("broken-streams", "answers ended with an error, because no node could continue them")
        alarms.add(self, "Broken", cluster_metric(cluster, names.BROKEN_METRIC), broken)
        slow = AlarmSpec(
            "long-pauses", f"one continuation in a hundred pauses for more than {PAUSE_S} s", above=PAUSE_S
        )
        alarms.add(self, "Pauses", cluster_metric(cluster, names.PAUSE_METRIC, "p99"), slow)
        if settings.has_peers:
            alone = AlarmSpec(
                "unreplicated-events",
                "clients receive tokens that no other node has a record of",
                periods=UNREPLICATED_PERIODS,
            )
            alarms.add(self, "Unreplicated", cluster_metric(cluster, names.UNREPLICATED_METRIC), alone)
