"""The monthly budget: its mail has a receiver, it needs no permission, and a change of it can be deployed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cfnlint.schema.manager import PROVIDER_SCHEMA_MANAGER

from checks.assemblies import EVERYTHING, SHIPPED, Synthesized, synthesize
from node_agent.contract.tags import CLUSTER_TAG
from stacks.constructs.budget import budget_name
from stacks.settings import FleetSettings
from tests.templates.test_permissions import granted

KIND = "AWS::Budgets::Budget"
ADDRESS = "operator@example.com"
BUDGET = replace(SHIPPED, budget_usd=500, alarm_email=ADDRESS)


@pytest.fixture(scope="module")
def budgeted(tmp_path_factory: pytest.TempPathFactory) -> Synthesized:
    return synthesize(tmp_path_factory.mktemp("budgeted"), BUDGET)


def notifications(templates: Synthesized) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = templates.only(KIND)["NotificationsWithSubscribers"]
    return found


def test_without_the_setting_there_is_no_budget(production: Synthesized, local: Synthesized) -> None:
    assert production.resources(KIND) == local.resources(KIND) == {}


def test_the_embedded_aws_which_has_no_budgets_gets_none() -> None:
    assert replace(BUDGET, local=True).for_local_emulator().budget_usd == 0


def test_a_budget_is_of_dollars_a_month_in_the_whole_account(budgeted: Synthesized) -> None:
    budget = budgeted.only(KIND)["Budget"]
    assert (budget["BudgetType"], budget["TimeUnit"]) == ("COST", "MONTHLY")
    assert budget["BudgetLimit"] == {"Amount": 500, "Unit": "USD"}
    assert "CostFilters" not in budget, "a filter by a tag that nobody activated would count nothing"


def test_a_budget_of_the_cluster_counts_its_tag(everything: Synthesized) -> None:
    assert everything.only(KIND)["Budget"]["CostFilters"] == {"TagKeyValue": [f"user:{CLUSTER_TAG}$synkti"]}


def test_every_instance_and_volume_has_the_tag_that_the_budget_counts(everything: Synthesized) -> None:
    template = everything.only("AWS::EC2::LaunchTemplate")["LaunchTemplateData"]
    tagged = {
        each["ResourceType"]
        for each in template["TagSpecifications"]
        if {"Key": CLUSTER_TAG, "Value": "synkti"} in each["Tags"]
    }
    assert tagged >= {"instance", "volume"}


def test_mail_is_sent_before_and_when_the_budget_is_spent_and_when_it_will_be(budgeted: Synthesized) -> None:
    found = [each["Notification"] for each in notifications(budgeted)]
    assert [(each["NotificationType"], each["Threshold"]) for each in found] == [
        ("ACTUAL", 80),
        ("ACTUAL", 100),
        ("FORECASTED", 100),
    ]
    assert {(each["ComparisonOperator"], each["ThresholdType"]) for each in found} == {("GREATER_THAN", "PERCENTAGE")}


def test_its_mail_needs_no_topic_no_policy_and_no_confirmation(budgeted: Synthesized) -> None:
    for each in notifications(budgeted):
        assert each["Subscribers"] == [{"SubscriptionType": "EMAIL", "Address": ADDRESS}]


def test_a_budget_adds_no_permission(budgeted: Synthesized, tmp_path: Path) -> None:
    without = synthesize(tmp_path, replace(BUDGET, budget_usd=0))
    assert granted(budgeted) == granted(without)
    policies = [templates.only("AWS::SNS::TopicPolicy")["PolicyDocument"] for templates in (budgeted, without)]
    assert policies[0] == policies[1]


@pytest.mark.parametrize("changed", [{"alarm_email": "other@example.com"}, {"cluster": "another"}])
def test_a_budget_that_cloudformation_replaces_has_another_name(changed: dict[str, Any]) -> None:
    """The new one is created while the old one still has its name."""
    immutable = PROVIDER_SCHEMA_MANAGER.get_resource_schema("us-east-1", KIND).schema["createOnlyProperties"]
    assert "/properties/NotificationsWithSubscribers" in immutable
    assert budget_name(replace(BUDGET, **changed)) != budget_name(BUDGET)


def test_another_amount_changes_the_same_budget() -> None:
    assert budget_name(replace(BUDGET, budget_usd=600)) == budget_name(BUDGET)


def test_everything_that_is_checked_has_a_budget() -> None:
    assert EVERYTHING.budget_usd
    assert FleetSettings().budget_usd == 0
