"""The Lambdas: their triggers, alarms, package and start time."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile

import pytest

from checks.assemblies import Synthesized
from node_agent.contract.aws_events import INTERRUPTION_EVENT, REBALANCE_EVENT, STATE_CHANGE_EVENT
from node_agent.contract.capacity import LAUNCH_FAILED_EVENT, LAUNCH_SUCCEEDED_EVENT
from stacks.constructs.event_function import RETRY_ATTEMPTS, RETRY_HOURS

HANDLERS = {
    "node_interrupted": {INTERRUPTION_EVENT},
    "node_rebalance_recommended": {REBALANCE_EVENT},
    "node_state_changed": {STATE_CHANGE_EVENT},
    "launch_finished": {LAUNCH_FAILED_EVENT, LAUNCH_SUCCEEDED_EVENT},
}
SCHEDULED = {"fleet_checked": "rate(5 minutes)"}
MAX_ZIP_BYTES = 1_000_000
MAX_OWN_SHARE = 1.5
"""Import time of a handler as a share of `import boto3`: 0.3 s in total on an idle machine."""


def test_each_event_has_a_function_with_retries_and_a_dead_letter_queue(production: Synthesized) -> None:
    functions = production.resources("AWS::Lambda::Function")
    assert {f["Properties"]["Handler"] for f in functions.values()} == {
        f"lambdas.handlers.{name}.handler" for name in (*HANDLERS, *SCHEDULED)
    }
    for function in functions.values():
        properties = function["Properties"]
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
    kinds = [set(pattern["detail-type"]) for pattern in patterns]
    assert sorted(kinds, key=sorted) == sorted(HANDLERS.values(), key=sorted)
    for pattern in patterns:
        launches = LAUNCH_FAILED_EVENT in pattern["detail-type"]
        assert pattern["source"] == (["aws.autoscaling"] if launches else ["aws.ec2"]), "drills are disabled"
        assert pattern.get("detail") == ({"AutoScalingGroupName": ["synkti-fleet"]} if launches else None)


def test_a_schedule_starts_the_check_of_the_fleet(production: Synthesized) -> None:
    rules = [rule["Properties"] for rule in production.resources("AWS::Events::Rule").values()]
    scheduled = [rule for rule in rules if "ScheduleExpression" in rule]
    assert [rule["ScheduleExpression"] for rule in scheduled] == list(SCHEDULED.values())
    (target,) = scheduled[0]["Targets"]
    functions = production.resources("AWS::Lambda::Function")
    function = functions[target["Arn"]["Fn::GetAtt"][0]]["Properties"]
    assert function["Handler"] == "lambdas.handlers.fleet_checked.handler"
    assert function["Environment"]["Variables"]["SYNKTI_ON_DEMAND_BASE"] == "0"


def test_rules_match_drills_if_drills_are_enabled(everything: Synthesized) -> None:
    rules = [rule["Properties"] for rule in everything.resources("AWS::Events::Rule").values()]
    for pattern in [rule["EventPattern"] for rule in rules if "EventPattern" in rule]:
        assert "synkti.drill" in pattern["source"]


def test_each_function_queue_and_capacity_failure_has_an_alarm(
    production: Synthesized, everything: Synthesized
) -> None:
    alarms = production.resources("AWS::CloudWatch::Alarm")
    assert len(alarms) == 2 * len((*HANDLERS, *SCHEDULED)) + 2
    names = {alarm["Properties"]["MetricName"] for alarm in alarms.values()}
    assert names == {"Errors", "ApproximateNumberOfMessagesVisible", "GroupPendingInstances", "CapacityLimit"}
    assert not any("AlarmActions" in alarm["Properties"] for alarm in alarms.values())
    with_email = everything.resources("AWS::CloudWatch::Alarm").values()
    assert all(alarm["Properties"]["AlarmActions"] for alarm in with_email)
    assert everything.only("AWS::SNS::Subscription")["Endpoint"] == "somebody@example.com"


def test_alarms_may_publish_to_the_topic_that_they_name(everything: Synthesized) -> None:
    """A topic's own policy replaces the default one, without which CloudWatch's messages are refused."""
    policy = everything.only("AWS::SNS::TopicPolicy")
    (topic,) = policy["Topics"]
    allowed = [each for each in policy["PolicyDocument"]["Statement"] if each["Effect"] == "Allow"]
    assert [(each["Principal"], each["Action"], each["Resource"]) for each in allowed] == [
        ({"Service": "cloudwatch.amazonaws.com"}, "sns:Publish", topic)
    ]
    assert list(allowed[0]["Condition"]["StringEquals"]) == ["aws:SourceAccount"]
    for alarm in everything.resources("AWS::CloudWatch::Alarm").values():
        assert alarm["Properties"]["AlarmActions"] == [topic]


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
