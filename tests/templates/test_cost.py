"""What an estimate counts is what the templates have."""

from __future__ import annotations

from typing import Any

from checks.assemblies import Synthesized
from cli.core.cost.lines import ALARM_METRICS, CHECKS_PER_MONTH, FREE_MIB_PER_S, FUNCTIONS
from stacks.constructs.handler_specs import CHECK_MINUTES

AT_DEPLOYMENTS = ("Size", "Model")
"""Functions that run at deployments only, a few times a month."""


def event_functions(production: Synthesized) -> list[dict[str, Any]]:
    found = production.resources("AWS::Lambda::Function")
    return [each["Properties"] for name, each in found.items() if not name.startswith(AT_DEPLOYMENTS)]


def test_functions_alarms_dashboards_secrets_and_buckets_are_counted(production: Synthesized) -> None:
    assert len(event_functions(production)) == FUNCTIONS
    alarms = [each["Properties"] for each in production.resources("AWS::CloudWatch::Alarm").values()]
    # An alarm on a sum has an entry for each metric, and one for the sum, which costs nothing.
    watched = [sum("MetricStat" in each for each in alarm["Metrics"]) if "Metrics" in alarm else 1 for alarm in alarms]
    assert sum(watched) == ALARM_METRICS
    assert len(production.resources("AWS::CloudWatch::Dashboard")) == 1
    assert len(production.resources("AWS::SecretsManager::Secret")) == 2
    assert round(CHECKS_PER_MONTH) == 730 * 60 // CHECK_MINUTES


def test_volumes_functions_and_the_table_are_of_the_kinds_that_are_priced(production: Synthesized) -> None:
    template = production.only("AWS::EC2::LaunchTemplate")["LaunchTemplateData"]
    (device,) = template["BlockDeviceMappings"]
    assert (device["Ebs"]["VolumeType"], device["Ebs"].get("Iops")) == ("gp3", None)
    assert device["Ebs"]["Throughput"] > FREE_MIB_PER_S
    assert "Monitoring" not in template, "detailed monitoring would be seven more metrics a node"
    functions = event_functions(production)
    # The one that orphans a node's streams runs once for each instance that starts or ends.
    assert sorted(function["MemorySize"] for function in functions) == [256] * (FUNCTIONS - 1) + [1024]
    assert all(function["Architectures"] == ["arm64"] for function in functions)
    assert production.only("AWS::DynamoDB::Table")["BillingMode"] == "PAY_PER_REQUEST"


def test_nothing_else_that_is_billed_by_the_hour_is_deployed(production: Synthesized, everything: Synthesized) -> None:
    """A new kind of resource here needs a line in cli/core/cost/lines.py, or costs nothing."""
    hourly = {
        "AWS::EC2::NatGateway",
        "AWS::EC2::EIP",
        "AWS::EC2::Instance",
        "AWS::ElastiCache::ReplicationGroup",
        "AWS::KMS::Key",
        "AWS::RDS::DBInstance",
    }
    for templates in (production, everything):
        kinds = {each["Type"] for template in templates.templates.values() for each in template["Resources"].values()}
        assert not kinds & hourly
        endpoints = templates.resources("AWS::EC2::VPCEndpoint").values()
        assert all(each["Properties"]["VpcEndpointType"] == "Gateway" for each in endpoints)
