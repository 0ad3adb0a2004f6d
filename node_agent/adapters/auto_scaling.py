"""Complete the Auto Scaling group's termination hook once this node has drained."""

from __future__ import annotations

from typing import Any

from node_agent.adapters.aws import aws_threads, error_code, error_message, in_thread
from node_agent.contract.errors import StoreUnavailable
from node_agent.contract.names import DRAINED_HOOK

_NOT_WAITING = "no active lifecycle action"
"""EC2 Auto Scaling's message where nothing waits: its code is the same ValidationError for everything."""


class AutoScaling:
    """The ScalingGroup port, over a boto3 Auto Scaling client. group: the group's name."""

    def __init__(self, client: Any, group: str) -> None:
        self._client = client
        self._threads = aws_threads("autoscaling")
        self._group = group

    async def complete_termination(self, instance_id: str) -> bool:
        """Complete the drain hook; return whether the group waited for it. Raises StoreUnavailable."""
        try:
            await in_thread(
                "completing the group's hook",
                lambda: self._client.complete_lifecycle_action(
                    LifecycleHookName=DRAINED_HOOK,
                    AutoScalingGroupName=self._group,
                    LifecycleActionResult="CONTINUE",
                    InstanceId=instance_id,
                ),
                self._threads,
            )
        except StoreUnavailable as error:
            message = error_message(error).lower()
            if error_code(error) == "ValidationError" and _NOT_WAITING in message:
                return False
            raise
        return True
