"""Drills: EC2's events from a source of our own, and real interruptions by the Fault Injection Service."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from cli.errors import Failed
from node_agent.contract.capacity import LAUNCH_FAILED_EVENT
from node_agent.contract.names import DRILL_EVENT_SOURCE

_INTERRUPTION_ACTION = "aws:ec2:send-spot-instance-interruptions"
_ENDED = ("completed", "stopping", "stopped", "failed", "cancelled")
_MAX_RULES = 500
"""The most rules that are read; a region's default quota is 300."""


class EventDrills:
    """Sends drill events. client: boto3's of EventBridge. Methods raise BotoCoreError and ClientError."""

    def __init__(self, client: Any, cluster: str) -> None:
        self._client = client
        self._cluster = cluster

    def is_enabled(self) -> bool:
        """Return True where a rule of the cluster matches events of the drills' source."""
        seen = 0
        for page in self._client.get_paginator("list_rules").paginate(NamePrefix=f"{self._cluster}-"):
            for rule in page["Rules"]:
                pattern = json.loads(rule.get("EventPattern") or "{}")
                if DRILL_EVENT_SOURCE in pattern.get("source", ()):
                    return True
            seen += len(page["Rules"])
            if seen > _MAX_RULES:
                break
        return False

    def send(self, kind: str, instance_id: str, zone: str, detail: dict[str, str]) -> str:
        """Send an event like EC2's and return its id. Raises Failed where EventBridge rejects it."""
        return self._put(kind, {"instance-id": instance_id, **detail}, [f"arn:aws:ec2:{zone}:instance/{instance_id}"])

    def send_launch_failure(self, group: str, message: str, at: float) -> str:
        """Send an event like Auto Scaling's of a failed launch. Raises Failed as `send`.

        Args:
            group: the Auto Scaling group's name.
            message: of EC2.
            at: the event's time, in unix seconds.

        Returns:
            The event's id.
        """
        detail = {"AutoScalingGroupName": group, "StatusMessage": message, "EC2InstanceId": ""}
        return self._put(LAUNCH_FAILED_EVENT, detail, [], Time=datetime.fromtimestamp(at, UTC))

    def _put(self, kind: str, detail: dict[str, str], resources: list[str], **more: Any) -> str:
        entry = {
            "Source": DRILL_EVENT_SOURCE,
            "DetailType": kind,
            "Detail": json.dumps(detail),
            "Resources": resources,
            **more,
        }
        (answer,) = self._client.put_events(Entries=[entry])["Entries"]
        if "EventId" not in answer:
            raise Failed(f"EventBridge rejected the event: {answer.get('ErrorMessage', answer.get('ErrorCode'))}")
        return str(answer["EventId"])


class Interruptions:
    """Interrupts spot instances. client: boto3's of FIS. Methods raise BotoCoreError and ClientError."""

    def __init__(self, client: Any, cluster: str) -> None:
        self._client = client
        self._cluster = cluster

    def interrupt(self, instance_arn: str, role_arn: str, token: str) -> str:
        """Start an interruption: EC2's notice now, the instance's end in two minutes.

        The template is deleted again, since the experiment does not need it.

        Args:
            instance_arn: the spot instance.
            role_arn: the role of the experiment.
            token: the idempotency token.

        Returns:
            The experiment's id.
        """
        template = self._client.create_experiment_template(
            clientToken=token,
            description=f"Synkti {self._cluster}: one spot interruption",
            roleArn=role_arn,
            stopConditions=[{"source": "none"}],
            targets={
                "node": {
                    "resourceType": "aws:ec2:spot-instance",
                    "resourceArns": [instance_arn],
                    "selectionMode": "ALL",
                }
            },
            actions={
                "interrupt": {
                    "actionId": _INTERRUPTION_ACTION,
                    "parameters": {"durationBeforeInterruption": "PT2M"},
                    "targets": {"SpotInstances": "node"},
                }
            },
            tags={"SynktiCluster": self._cluster},
        )["experimentTemplate"]["id"]
        try:
            started = self._client.start_experiment(clientToken=token, experimentTemplateId=template)
        finally:
            self._client.delete_experiment_template(id=template)
        return str(started["experiment"]["id"])

    def stop(self, experiment: str) -> bool:
        """Stop an experiment; return False where it has ended. An announced interruption is not taken back by EC2."""
        status = self._client.get_experiment(id=experiment)["experiment"]["state"]["status"]
        if status in _ENDED:
            return False
        self._client.stop_experiment(id=experiment)
        return True
