"""The optional monthly budget, which sends mail and stops nothing.

AWS Budgets sends the mail itself. An SNS topic would need a policy that admits Budgets, and a confirmed
subscription; without either the alarm would be lost silently.
"""

from __future__ import annotations

import hashlib

from aws_cdk import aws_budgets as budgets
from constructs import Construct

from node_agent.contract.tags import CLUSTER_TAG
from stacks.settings import FleetSettings

_ACTUAL, _FORECAST = "ACTUAL", "FORECASTED"
THRESHOLDS = ((_ACTUAL, 80), (_ACTUAL, 100), (_FORECAST, 100))
"""In percent of the limit. A forecast needs about five weeks of an account's usage; until then the first two count."""


class Budget(Construct):
    """A budget of `budget_usd` dollars a month, whose mail goes to `alarm_email`."""

    def __init__(self, scope: Construct, construct_id: str, settings: FleetSettings) -> None:
        super().__init__(scope, construct_id)
        subscriber = budgets.CfnBudget.SubscriberProperty(subscription_type="EMAIL", address=settings.alarm_email)
        budgets.CfnBudget(
            self,
            "Monthly",
            budget=budgets.CfnBudget.BudgetDataProperty(
                budget_name=budget_name(settings),
                budget_type="COST",
                time_unit="MONTHLY",
                budget_limit=budgets.CfnBudget.SpendProperty(amount=settings.budget_usd, unit="USD"),
                cost_filters=_filters(settings),
            ),
            notifications_with_subscribers=[
                budgets.CfnBudget.NotificationWithSubscribersProperty(
                    notification=budgets.CfnBudget.NotificationProperty(
                        notification_type=kind,
                        comparison_operator="GREATER_THAN",
                        threshold=percent,
                        threshold_type="PERCENTAGE",
                    ),
                    subscribers=[subscriber],
                )
                for kind, percent in THRESHOLDS
            ],
        )


def budget_name(settings: FleetSettings) -> str:
    """Return the budget's name, another one for each address and each set of thresholds.

    CloudFormation replaces a budget whose notifications change, and creates the new one before it deletes the old one;
    two of one name cannot exist.
    """
    digest = hashlib.sha256(repr((settings.alarm_email, THRESHOLDS)).encode()).hexdigest()
    return f"{settings.cluster}-monthly-{digest[:8]}"


def _filters(settings: FleetSettings) -> dict[str, list[str]] | None:
    if settings.budget_scope == "account":
        return None
    return {"TagKeyValue": [f"user:{CLUSTER_TAG}${settings.cluster}"]}
