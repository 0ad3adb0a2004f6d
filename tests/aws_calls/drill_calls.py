"""Makes every call of the drills: single events and interruptions, and what the drill of the first day examines."""

from __future__ import annotations

from datetime import UTC, datetime

from checks.assemblies import ACCOUNT, REGION
from cli.account import Account
from cli.adapters.alarms import Alarms
from cli.adapters.drills import EventDrills, Interruptions
from cli.adapters.group_probe import GroupProbe
from cli.adapters.instances import Instances
from cli.adapters.records import Records
from node_agent.contract.aws_events import INTERRUPTION_EVENT
from node_agent.contract.names import stack_name
from tests.aws_calls.agent_calls import CLUSTER, GROUP, NODE, TABLE
from tests.aws_calls.recording import Recorder

ROLE = f"arn:aws:iam::{ACCOUNT}:role/synkti-drills"
INSTANCE = f"arn:aws:ec2:{REGION}:{ACCOUNT}:instance/{NODE}"
TOPIC = f"arn:aws:sns:{REGION}:{ACCOUNT}:alarms"
ALARM = "synkti-dead-letters"
HOOK = "synkti-launch"
NOW = datetime(2026, 11, 30, tzinfo=UTC)


def call_as_drills(recorder: Recorder, account: Account) -> None:
    """Call everything once."""
    _events(recorder, account)
    _alarms(recorder, account)
    _fleet(account)


def _events(recorder: Recorder, account: Account) -> None:
    drills = EventDrills(account.client("events"), CLUSTER)
    with recorder.answering(ListRules={"Rules": [{"EventPattern": "{}"}]}):
        drills.is_enabled()
    drills.send(INTERRUPTION_EVENT, NODE, "us-east-1a", {"instance-action": "terminate"})
    drills.send_launch_failure(GROUP, "no capacity", NOW.timestamp())
    interruptions = Interruptions(account.client("fis"), CLUSTER)
    experiment = interruptions.interrupt(INSTANCE, ROLE, "token")
    with recorder.answering(GetExperiment={"experiment": {"state": {"status": "running"}}}):
        assert interruptions.stop(experiment)


def _alarms(recorder: Recorder, account: Account) -> None:
    alarms = Alarms(account.client("cloudwatch"), account.client("sns"), account.client("cloudformation"))
    resource = {"ResourceType": "AWS::CloudWatch::Alarm", "PhysicalResourceId": ALARM}
    with recorder.answering(ListStackResources={"StackResourceSummaries": [resource]}):
        alarms.of_stack(stack_name(CLUSTER, "events"))
    alarms.subscriptions(TOPIC)
    alarms.set_state(ALARM, "ALARM")
    alarms.state(ALARM)
    alarms.actions(ALARM, NOW)


def _fleet(account: Account) -> None:
    probe = GroupProbe(account.client("autoscaling"), GROUP)
    probe.capacity()
    probe.launches()
    probe.hook_timeout_s(HOOK)
    probe.states()
    probe.state_of(NODE)
    probe.set_desired(3)
    probe.suspend_launches()
    probe.resume_launches()
    probe.set_base(1)
    Instances(account.client("ec2"), CLUSTER).is_running(NODE)
    records = Records(account.client("dynamodb"), TABLE)
    records.timeline(NODE)
    records.drain(NODE)
    records.capacity(GROUP)
