"""The Lambdas: their triggers, alarms, package and start time."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from checks.assemblies import Synthesized
from node_agent.contract import names
from node_agent.contract.aws_events import INTERRUPTION_EVENT, REBALANCE_EVENT, STATE_CHANGE_EVENT
from node_agent.contract.capacity import LAUNCH_FAILED_EVENT, LAUNCH_SUCCEEDED_EVENT
from node_agent.contract.launch_breaker import GAVE_UP_EVENT
from stacks.constructs.event_function import RETRY_ATTEMPTS, RETRY_HOURS
from stacks.constructs.lambda_package import POWERTOOLS_VERSION
from stacks.events_stack import PAUSE_S

ROOT = Path(__file__).parents[2]

HANDLERS = {
    "node_interrupted": {INTERRUPTION_EVENT},
    "node_rebalance_recommended": {REBALANCE_EVENT},
    "node_state_changed": {STATE_CHANGE_EVENT},
    "launch_finished": {LAUNCH_FAILED_EVENT, LAUNCH_SUCCEEDED_EVENT},
    "node_gave_up": {GAVE_UP_EVENT, LAUNCH_FAILED_EVENT, LAUNCH_SUCCEEDED_EVENT},
}
ENDED = {"state": ["shutting-down", "terminated", "stopping", "stopped"]}
"""Otherwise each start of any instance in the account would start a Lambda that ignores it."""

SCHEDULED = {"fleet_checked": "rate(5 minutes)"}
CUSTOM = ("size_requested",)
MAX_ZIP_BYTES = 1_000_000
MAX_OWN_SHARE = 1.5
"""Import time of a handler as a share of `import boto3`: 0.3 s in total on an idle machine."""


def test_each_event_has_a_function_with_retries_and_a_dead_letter_queue(production: Synthesized) -> None:
    functions = production.resources("AWS::Lambda::Function")
    assert {f["Properties"]["Handler"] for f in functions.values()} == {
        f"lambdas.handlers.{name}.handler" for name in (*HANDLERS, *SCHEDULED, *CUSTOM)
    }
    for function in functions.values():
        properties = function["Properties"]
        if properties["Handler"].split(".")[2] in CUSTOM:
            continue  # CloudFormation waits for it, and fails where it is lost
        assert (properties["Runtime"], properties["Architectures"]) == ("python3.13", ["arm64"])
        assert properties["TracingConfig"] == {"Mode": "Active"}
        assert "DeadLetterConfig" in properties
    for rule in production.resources("AWS::Events::Rule").values():
        (target,) = rule["Properties"]["Targets"]
        assert target["RetryPolicy"] == {
            "MaximumEventAgeInSeconds": RETRY_HOURS * 3600,
            "MaximumRetryAttempts": RETRY_ATTEMPTS,
        }
        assert "DeadLetterConfig" in target


def test_rules_match_only_the_events_of_their_function(production: Synthesized) -> None:
    rules = [rule["Properties"] for rule in production.resources("AWS::Events::Rule").values()]
    patterns = [rule["EventPattern"] for rule in rules if "EventPattern" in rule]
    every = [set(pattern["detail-type"]) for pattern in patterns]
    assert sorted(every, key=sorted) == sorted(HANDLERS.values(), key=sorted)
    for pattern in patterns:
        kinds = pattern["detail-type"]
        launches = LAUNCH_FAILED_EVENT in kinds
        sources = (["synkti.node"] if GAVE_UP_EVENT in kinds else []) + ["aws.autoscaling" if launches else "aws.ec2"]
        assert pattern["source"] == sources, "drills are disabled"
        ended = ENDED if STATE_CHANGE_EVENT in kinds else None
        assert pattern.get("detail") == ({"AutoScalingGroupName": ["synkti-fleet"]} if launches else ended)


def test_a_schedule_starts_the_check_of_the_fleet(production: Synthesized) -> None:
    rules = [rule["Properties"] for rule in production.resources("AWS::Events::Rule").values()]
    scheduled = [rule for rule in rules if "ScheduleExpression" in rule]
    assert [rule["ScheduleExpression"] for rule in scheduled] == list(SCHEDULED.values())
    (target,) = scheduled[0]["Targets"]
    functions = production.resources("AWS::Lambda::Function")
    function = functions[target["Arn"]["Fn::GetAtt"][0]]["Properties"]
    assert function["Handler"] == "lambdas.handlers.fleet_checked.handler"
    assert function["Environment"]["Variables"]["SYNKTI_ON_DEMAND_BASE"] == "0"


def test_streams_that_stay_orphaned_have_an_alarm(production: Synthesized) -> None:
    alarms = [alarm["Properties"] for alarm in production.resources("AWS::CloudWatch::Alarm").values()]
    (alarm,) = [alarm for alarm in alarms if alarm.get("MetricName") == "OrphanedStreams"]
    assert (alarm["Namespace"], alarm["Statistic"], alarm["Threshold"]) == ("Synkti", "Maximum", 0)
    assert {"Name": "cluster", "Value": "synkti"} in alarm["Dimensions"]
    assert alarm["Period"] == 300, "as often as the check publishes it"


def test_the_function_that_orphans_streams_has_the_cpu_for_a_full_record(production: Synthesized) -> None:
    memory = {
        function["Properties"]["Handler"].split(".")[-2]: function["Properties"]["MemorySize"]
        for function in production.resources("AWS::Lambda::Function").values()
    }
    assert memory.pop("node_state_changed") == 1024
    assert set(memory.values()) == {256}


def test_rules_match_drills_if_drills_are_enabled(everything: Synthesized) -> None:
    rules = [rule["Properties"] for rule in everything.resources("AWS::Events::Rule").values()]
    for pattern in [rule["EventPattern"] for rule in rules if "EventPattern" in rule]:
        assert "synkti.drill" in pattern["source"]


def notifying(templates: Synthesized) -> list[dict[str, Any]]:
    """The alarms but the one that only rolls an update back: the events stack has the same one for people."""
    alarms = templates.templates["synkti-events"]["Resources"].values()
    return [each for each in alarms if each["Type"] == "AWS::CloudWatch::Alarm"]


def test_each_function_queue_and_capacity_failure_has_an_alarm(
    production: Synthesized, everything: Synthesized
) -> None:
    alarms = production.resources("AWS::CloudWatch::Alarm")
    assert len(alarms) == 2 * len((*HANDLERS, *SCHEDULED)) + 8
    watched = {alarm["Properties"].get("MetricName", "a sum") for alarm in alarms.values()}
    assert watched == {"Errors", "ApproximateNumberOfMessagesVisible", "a sum", "CapacityLimit", "BreakerOpen",
        "OrphanedStreams", "StreamsBroken", "EventsUnreplicated", "ContinuationPause",
    }  # fmt: skip
    assert not any("AlarmActions" in alarm["Properties"] for alarm in alarms.values())
    assert all(alarm["Properties"]["AlarmActions"] for alarm in notifying(everything))
    assert everything.only("AWS::SNS::Subscription")["Endpoint"] == "operator@example.com"


def page_and_section(alarm: dict[str, Any]) -> tuple[str, str]:
    """Return the page that an alarm's description names, and the section of it."""
    page, _, section = alarm["AlarmDescription"].rpartition(" ")[2].partition("#")
    return page, section


def test_each_alarm_has_a_name_and_its_description_the_section_about_it(
    production: Synthesized, everything: Synthesized
) -> None:
    text = (ROOT / "docs/alarms.md").read_text()
    titles = [line[3:].lower() for line in text.splitlines() if line.startswith("## ")]
    handlers = {handler.replace("_", "-") for handler in (*HANDLERS, *SCHEDULED)}
    alarms = [alarm["Properties"] for alarm in production.resources("AWS::CloudWatch::Alarm").values()]
    for alarm in alarms:
        name = alarm["AlarmName"].removeprefix("synkti-")
        assert f"`{name}`" in text or name.removesuffix("-fails").removesuffix("-dead-letters") in handlers
    assert {page_and_section(alarm)[0] for alarm in alarms} == {"docs/alarms.md"}, "no repository deploys"
    assert {page_and_section(alarm)[1] for alarm in alarms} == {title.replace(" ", "-") for title in titles}
    mailed = {page_and_section(alarm["Properties"])[0] for alarm in notifying(everything)}
    assert mailed == {"https://github.com/acme/models/blob/main/docs/alarms.md"}


def test_the_promise_has_alarms_over_all_nodes_of_the_cluster(production: Synthesized) -> None:
    resources = production.resources("AWS::CloudWatch::Alarm").values()
    alarms = {each["Properties"]["AlarmName"]: each["Properties"] for each in resources}
    broken, alone, pauses = (
        alarms[f"synkti-{name}"] for name in ("broken-streams", "unreplicated-events", "long-pauses")
    )
    assert (broken["Statistic"], broken["Threshold"], broken["EvaluationPeriods"]) == ("Sum", 0, 1)
    assert (alone["Statistic"], alone["Threshold"], alone["DatapointsToAlarm"]) == ("Sum", 0, 3)
    assert (pauses["ExtendedStatistic"], pauses["Threshold"]) == ("p99", PAUSE_S)
    for alarm in (broken, alone, pauses):
        assert {each["Name"]: each["Value"] for each in alarm["Dimensions"]} == names.metric_dimensions("synkti")


def test_alarms_and_the_dashboard_count_the_events_of_their_cluster_only(production: Synthesized) -> None:
    ours = [
        each["Properties"]["Dimensions"]
        for each in production.resources("AWS::CloudWatch::Alarm").values()
        if each["Properties"].get("Namespace") == "Synkti"
    ]
    assert ours
    for dimensions in ours:
        assert {"Name": "cluster", "Value": "synkti"} in dimensions
    board = json.dumps(production.only("AWS::CloudWatch::Dashboard"))
    assert board.count('\\"service\\",\\"synkti\\"') == board.count('\\"cluster\\",\\"synkti\\"') > 0
    for function in production.resources("AWS::Lambda::Function").values():
        if function["Properties"]["Handler"].split(".")[2] not in CUSTOM:  # these publish no metrics
            assert function["Properties"]["Environment"]["Variables"]["SYNKTI_CLUSTER"] == "synkti"


def test_alarms_may_publish_to_the_topic_that_they_name(everything: Synthesized) -> None:
    """A topic's own policy replaces the default one, without which CloudWatch's messages are refused."""
    policy = everything.only("AWS::SNS::TopicPolicy")
    (topic,) = policy["Topics"]
    allowed = [each for each in policy["PolicyDocument"]["Statement"] if each["Effect"] == "Allow"]
    assert [(each["Principal"], each["Action"], each["Resource"]) for each in allowed] == [
        ({"Service": "cloudwatch.amazonaws.com"}, "sns:Publish", topic)
    ]
    assert list(allowed[0]["Condition"]["StringEquals"]) == ["aws:SourceAccount"]
    for alarm in notifying(everything):
        assert alarm["Properties"]["AlarmActions"] == [topic]


def test_an_alarm_fires_where_nodes_are_missing_for_20_of_30_minutes(production: Synthesized) -> None:
    """Nodes that never serve are replaced for ever: the group is complete for a minute, and then again it is not."""
    (missing,) = [
        each["Properties"]
        for each in production.resources("AWS::CloudWatch::Alarm").values()
        if "Metrics" in each["Properties"]
    ]
    assert (missing["DatapointsToAlarm"], missing["EvaluationPeriods"], missing["Threshold"]) == (20, 30, 0)
    metrics = {each["Id"]: each for each in missing["Metrics"]}
    (sum_,) = [each for each in metrics.values() if "Expression" in each]
    assert sum_["Expression"] == "desired - serving"
    counted = {key: metrics[key]["MetricStat"]["Metric"]["MetricName"] for key in ("desired", "serving")}
    assert counted == {"desired": "GroupDesiredCapacity", "serving": "GroupInServiceInstances"}


def test_logs_have_a_retention_and_a_dashboard_shows_the_fleet(production: Synthesized) -> None:
    assert all(g["Properties"]["RetentionInDays"] == 30 for g in production.resources("AWS::Logs::LogGroup").values())
    board = json.dumps(production.only("AWS::CloudWatch::Dashboard"))
    for shown in ("GroupInServiceInstances", "InFlightRequests", "OnDemandBase", "CapacityRaise", "EventAdvance"):
        assert shown in board


def package(production: Synthesized) -> dict[str, bytes]:
    (folder,) = [path for path in production.folder.glob("asset.*") if path.is_dir()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_package_has_only_the_lambdas_and_the_contract(production: Synthesized) -> None:
    files = package(production)
    assert "lambdas/handlers/node_interrupted.py" in files
    assert "node_agent/contract/table_schema.py" in files
    allowed = ("lambdas/", "node_agent/contract/", "node_agent/__init__.py")
    assert [file for file in files if not file.startswith(allowed)] == []


def test_the_package_is_smaller_than_one_megabyte(production: Synthesized) -> None:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in package(production).items():
            archive.writestr(name, content)
    print(f"zip: {len(held.getvalue())} bytes")
    assert len(held.getvalue()) < MAX_ZIP_BYTES


@pytest.mark.parametrize("name", [*HANDLERS, *SCHEDULED])
def test_a_handler_starts_with_its_environment_variables_and_fast(name: str, production: Synthesized) -> None:
    """CPU time of the import, relative to boto3's in the same process; the best of up to 5 tries."""
    (function,) = [
        each["Properties"]
        for each in production.resources("AWS::Lambda::Function").values()
        if each["Properties"]["Handler"] == f"lambdas.handlers.{name}.handler"
    ]
    variables = {key: value for key, value in function["Environment"]["Variables"].items() if isinstance(value, str)}
    variables["SYNKTI_TABLE"] = "synkti-records"  # a reference in the template
    assert "SYNKTI_TABLE" in function["Environment"]["Variables"]
    environ = {**variables, "AWS_DEFAULT_REGION": "us-east-1", "PATH": os.environ["PATH"]}
    script = (
        "from time import process_time; began = process_time(); import boto3; common = process_time() - began; "
        f"import lambdas.handlers.{name}; print(common, process_time() - began - common)"
    )
    shares = []
    for _ in range(5):
        done = subprocess.run([sys.executable, "-c", script], env=environ, capture_output=True, text=True, check=True)
        common, own = map(float, done.stdout.split())
        shares.append(own / common)
        if shares[-1] < MAX_OWN_SHARE:
            break
    print(f"import of {name}: {(common + own) * 1000:.0f} ms, {own * 1000:.0f} of them beside boto3's")
    assert min(shares) < MAX_OWN_SHARE


def test_the_lambdas_have_the_version_of_powertools_that_is_tested(production: Synthesized) -> None:
    """A layer was deployed that was many releases older than what the tests ran with."""
    assert metadata.version("aws-lambda-powertools") == POWERTOOLS_VERSION
    found = set()
    for name, template in production.templates.items():
        functions = [each for each in template["Resources"].values() if each["Type"] == "AWS::Lambda::Function"]
        for layer in {each["Ref"] for function in functions for each in function["Properties"].get("Layers", ())}:
            found.add(name)
            assert template["Parameters"][layer] == {
                "Type": "AWS::SSM::Parameter::Value<String>",
                "Default": f"/aws/service/powertools/python/arm64/python3.13/{POWERTOOLS_VERSION}",
            }
    assert {"synkti-events", "synkti-fleet"} <= found
