"""Emulates EC2 and its Auto Scaling group, of which the embedded AWS only stores records.

It reads the *deployed* group, runs instances in the emulated EC2 with the group's propagated tags up to the desired
capacity, boots a node for each, reclaims instances with notice or without, replaces those that are gone, and emits the
events that EC2 would. Only AWS can put events of the source aws.ec2, so these have the source synkti.drill, which the
deployed rules accept if drills are on.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from local.aws import REGION, EmbeddedAws
from local.errors import LocalRunError
from local.imds import InstanceMetadata
from local.process_cleanup import tail
from node_agent.contract.aws_events import INTERRUPTION_EVENT, REBALANCE_EVENT, STATE_CHANGE_EVENT
from node_agent.contract.names import DRILL_EVENT_SOURCE
from node_agent.contract.tags import CLUSTER_TAG, EMULATED_END_TAG, EMULATED_SHRINK, VERSION_TAG

ZONES = ("us-east-1a", "us-east-1b", "us-east-1c")
INSTANCE_TYPES = ("g5.xlarge", "g6.xlarge")
_LOOP_INTERVAL_S = 0.25
_READ_GROUP_EVERY = 8
MAX_LAUNCHES = 64
"""Since a node last became ready: nodes that cannot start are not replaced for ever."""

MAX_BOOT_FAILURES = 3
"""Nodes in a row that end with an error of their own before they served, before the run gives up."""

_EXTERNAL_SIGNALS = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT})
"""An end by one of these signals is no failure of the node."""

_ADDRESSES = 250

SCALE_IN_TIMEOUT_S = 120.0
"""The time that the deployed lifecycle hook gives an instance whose termination is requested."""


@dataclass(frozen=True)
class GroupAction:
    """The group's next action: the number of launches, and the instances to terminate."""

    launch: int
    terminate: tuple[str, ...]


@dataclass(frozen=True)
class InstanceView:
    """An instance without a termination request. is_current: of the current template; is_ready: its node serves."""

    instance_id: str
    is_current: bool = True
    is_ready: bool = True


class Instance(Protocol):
    """An instance that the group runs: emulated (local/emulated_instance), or booted (local/boot/machine)."""

    metadata: InstanceMetadata
    instance_id: str
    killed: bool
    version: str
    log: Path

    @property
    def url(self) -> str:
        """The base URL of its client API."""

    @property
    def running(self) -> bool:
        """True until it has ended."""

    @property
    def termination_requested(self) -> bool:
        """True if the group has requested its termination."""

    def is_ready(self) -> bool:
        """Return True if its node accepts requests."""

    def give_notice(self, lead_s: float) -> None:
        """Announce in IMDS that EC2 reclaims it in `lead_s` seconds."""

    def recommend_rebalance(self) -> None:
        """Recommend a rebalance in IMDS."""

    def scale_in(self) -> None:
        """Request termination by the group."""

    def kill(self) -> None:
        """End it at once."""

    def wait(self) -> int:
        """Wait for its end; return its status as Popen's."""

    def close(self) -> None:
        """Remove what is left of it."""


InstanceT = TypeVar("InstanceT", bound=Instance)


def is_failure(status: int, *, served: bool) -> bool:
    """Return True if an agent's end shows that nodes cannot start. Pure. status: as Popen's, negative for a signal."""
    return status != 0 and not served and -status not in _EXTERNAL_SIGNALS


def plan_group(desired: int, nodes: Sequence[InstanceView], leaving: int, launched: int) -> GroupAction:
    """Plan how a group keeps its size and replaces instances of an older template. Pure.

    It launches the missing instances, within the run's bound, and terminates the oldest of too many. If some are
    outdated, it runs one more than desired, and terminates an outdated one when all current ones serve and the one
    before has ended: an instance refresh that keeps all of the fleet healthy.

    Args:
        desired: the group's desired capacity.
        nodes: in the order of their launch.
        leaving: the number of those that are terminating.
        launched: since a node last became ready.

    Returns:
        What to do now; nothing where the group is as it is to be.
    """
    outdated = [node for node in nodes if not node.is_current]
    wanted = desired + bool(outdated and desired)
    missing = wanted - len(nodes)
    launch = max(0, min(missing, MAX_LAUNCHES - launched))
    first = sorted(nodes, key=lambda node: node.is_current)
    surplus = max(0, -missing)
    if outdated and missing == 0 and not leaving and all(node.is_ready for node in nodes if node.is_current):
        surplus = 1
    return GroupAction(launch, tuple(node.instance_id for node in first[:surplus]))


def requested_ends(described: Mapping[str, Any]) -> dict[str, str]:
    """Return the value of the tag EMULATED_END_TAG by instance id, of an answer of DescribeInstances. Pure."""
    instances = [each for reservation in described["Reservations"] for each in reservation["Instances"]]
    tags = [(each["InstanceId"], tag) for each in instances for tag in each.get("Tags", [])]
    return {instance_id: tag["Value"] for instance_id, tag in tags if tag["Key"] == EMULATED_END_TAG}


class Ec2Emulator(Generic[InstanceT]):
    """Runs the instances of one group. instances: in the order of their launch.

    boot: creates an instance of its metadata and the deployed version; network: their addresses' first three numbers,
    which are also those that EC2 lists if `is_private`; log: called with a sentence for each event.
    """

    def __init__(
        self,
        aws: EmbeddedAws,
        group: str,
        boot: Callable[[InstanceMetadata, str], InstanceT],
        network: str,
        log: Callable[[str], None],
        *,
        is_private: bool = False,
    ) -> None:
        self._ec2 = aws.client("ec2")
        self._autoscaling = aws.client("autoscaling")
        self._events = aws.client("events")
        self._group = group
        self._boot = boot
        self._log = log
        self._is_private = is_private
        self._network = network
        self._launched = 0
        self._launches_without_ready = 0
        self._boot_failures = 0
        self._ready_ids: set[str] = set()
        self._termination_tasks: set[asyncio.Task[None]] = set()
        self.instances: list[InstanceT] = []

    def instance(self, instance_id: str) -> InstanceT:
        """Return the instance of this id. Raises StopIteration where there is none any more."""
        return next(instance for instance in self.instances if instance.instance_id == instance_id)

    async def run(self) -> None:
        """Keep the group at its size until cancelled. Raises LocalRunError if nodes cannot start."""
        group = await self._read_group()
        for turn in itertools.count():
            if turn % _READ_GROUP_EVERY == 0:
                await self._end_requested()
                group = await self._read_group()
                await self._update_ready()
            for instance in [m for m in self.instances if not m.running]:
                await self._remove(instance)
            kept = [instance for instance in self.instances if not instance.termination_requested]
            nodes = await self._inspect(kept, _version(group))
            step = plan_group(
                group["DesiredCapacity"], nodes, len(self.instances) - len(kept), self._launches_without_ready
            )
            for _ in range(step.launch):
                await self._launch(group)
            for instance_id in step.terminate:
                self._scale_in(self.instance(instance_id))
            await asyncio.sleep(_LOOP_INTERVAL_S)

    async def _update_ready(self) -> None:
        """Record the nodes that became ready: they prove that nodes can start, so failures before do not count."""
        waiting = [
            instance for instance in self.instances if instance.instance_id not in self._ready_ids and instance.running
        ]
        ready = await asyncio.gather(*(asyncio.to_thread(instance.is_ready) for instance in waiting))
        new = {instance.instance_id for instance, is_ready in zip(waiting, ready, strict=True) if is_ready}
        if new:
            self._ready_ids |= new
            self._launches_without_ready = self._boot_failures = 0

    async def _inspect(self, instances: Sequence[InstanceT], version: str) -> list[InstanceView]:
        """View the instances. Readiness is requested only during a replacement, the only decision that needs it."""
        if all(instance.version == version for instance in instances):
            return [InstanceView(instance.instance_id) for instance in instances]
        ready = await asyncio.gather(*(asyncio.to_thread(instance.is_ready) for instance in instances))
        return [
            InstanceView(instance.instance_id, instance.version == version, is_ready)
            for instance, is_ready in zip(instances, ready, strict=True)
        ]

    async def interrupt(self, instance: InstanceT, lead_s: float) -> None:
        """Reclaim an instance in `lead_s` seconds: notice in IMDS, event, and termination at the deadline."""
        instance.give_notice(lead_s)
        self._schedule_termination(instance, lead_s)
        await self._emit(INTERRUPTION_EVENT, instance, {"instance-action": "terminate"})

    async def recommend_rebalance(self, instance: InstanceT) -> None:
        """Recommend a rebalance, in IMDS and as an event."""
        instance.recommend_rebalance()
        await self._emit(REBALANCE_EVENT, instance, {})

    def _scale_in(self, instance: InstanceT) -> None:
        self._log(f"{instance.instance_id} is surplus: the group terminates it")
        instance.scale_in()
        self._schedule_termination(instance, SCALE_IN_TIMEOUT_S)

    async def _end_requested(self) -> None:
        """Terminate the instances whose end `synkti drain` has requested, as TerminateInstanceInAutoScalingGroup."""
        filters = [{"Name": "tag-key", "Values": [EMULATED_END_TAG]}]
        answer = await asyncio.to_thread(self._ec2.describe_instances, Filters=filters)
        requested = requested_ends(answer)
        for instance in [each for each in self.instances if not each.termination_requested]:
            how = requested.get(instance.instance_id)
            if how is None:
                continue
            if how == EMULATED_SHRINK:
                desired = (await self._read_group())["DesiredCapacity"] - 1
                await asyncio.to_thread(
                    self._autoscaling.update_auto_scaling_group,
                    AutoScalingGroupName=self._group,
                    DesiredCapacity=max(0, desired),
                )
            self._log(f"{instance.instance_id}: its end was requested, the group terminates it")
            instance.scale_in()
            self._schedule_termination(instance, SCALE_IN_TIMEOUT_S)

    def _schedule_termination(self, instance: InstanceT, lead_s: float) -> None:
        task = asyncio.create_task(self._terminate_after(instance, lead_s))
        self._termination_tasks.add(task)
        task.add_done_callback(self._termination_tasks.discard)

    async def _terminate_after(self, instance: InstanceT, lead_s: float) -> None:
        await asyncio.sleep(lead_s)
        if instance.running:
            await asyncio.to_thread(instance.kill)

    async def _read_group(self) -> dict[str, Any]:
        answer = await asyncio.to_thread(
            self._autoscaling.describe_auto_scaling_groups, AutoScalingGroupNames=[self._group]
        )
        group: dict[str, Any] = answer["AutoScalingGroups"][0]
        return group

    async def _launch(self, group: dict[str, Any]) -> None:
        index = self._launched
        self._launched += 1
        self._launches_without_ready += 1
        tags = [{"Key": t["Key"], "Value": t["Value"]} for t in group["Tags"] if t.get("PropagateAtLaunch")]
        instance_type, zone = INSTANCE_TYPES[index % len(INSTANCE_TYPES)], ZONES[index % len(ZONES)]
        address = self._free_address(index)
        answer = await asyncio.to_thread(
            self._ec2.run_instances,
            ImageId="ami-00000000000000000",
            MinCount=1,
            MaxCount=1,
            InstanceType=instance_type,
            Placement={"AvailabilityZone": zone},
            InstanceMarketOptions={"MarketType": "spot"},
            TagSpecifications=[{"ResourceType": "instance", "Tags": tags}],
            **({"PrivateIpAddress": address} if self._is_private else {}),
        )
        metadata = InstanceMetadata(
            instance_id=answer["Instances"][0]["InstanceId"],
            zone=zone,
            region=REGION,
            instance_type=instance_type,
            address=address,
        )
        instance = await asyncio.to_thread(self._boot, metadata, _version(group))
        self.instances.append(instance)
        self._log(f"{instance.instance_id} launched: {metadata.zone}, {instance_type}, {metadata.address}")
        await self._emit(STATE_CHANGE_EVENT, instance, {"state": "pending"})
        await self._emit(STATE_CHANGE_EVENT, instance, {"state": "running"})

    def _free_address(self, index: int) -> str:
        """Return an address; addresses are reused after many launches, as in EC2."""
        taken = {instance.metadata.address for instance in self.instances}
        every = (f"{self._network}.{(index + n) % _ADDRESSES + 1}" for n in range(_ADDRESSES))
        return next(address for address in every if address not in taken)

    async def _remove(self, instance: InstanceT) -> None:
        """Remove an instance whose agent has ended. Raises LocalRunError after too many failures."""
        status = instance.wait()
        how = "killed" if instance.killed else _describe_end(status)
        self._log(f"{instance.instance_id} is gone: {how}")
        if not instance.killed:
            self._boot_failures += is_failure(status, served=instance.instance_id in self._ready_ids)
        if self._boot_failures >= MAX_BOOT_FAILURES or self._launches_without_ready >= MAX_LAUNCHES:
            raise LocalRunError(
                f"nodes end before they serve; the last one's log, {instance.log}, ends:\n{tail(instance.log)}"
            )
        self.instances.remove(instance)
        await asyncio.to_thread(instance.close)
        await self._emit(STATE_CHANGE_EVENT, instance, {"state": "shutting-down"})
        await asyncio.to_thread(self._ec2.terminate_instances, InstanceIds=[instance.instance_id])
        await self._emit(STATE_CHANGE_EVENT, instance, {"state": "terminated"})

    async def _emit(self, detail_type: str, instance: InstanceT, detail: dict[str, str]) -> None:
        entry = {
            "Source": DRILL_EVENT_SOURCE,
            "DetailType": detail_type,
            "Detail": json.dumps({"instance-id": instance.instance_id, **detail}),
            "Resources": [f"arn:aws:ec2:{instance.metadata.zone}:instance/{instance.instance_id}"],
        }
        await asyncio.to_thread(self._events.put_events, Entries=[entry])

    def tags(self, instance_id: str) -> dict[str, str]:
        """Return the instance's tags in EC2 without the cluster's."""
        answer = self._ec2.describe_instances(InstanceIds=[instance_id])
        held = answer["Reservations"][0]["Instances"][0].get("Tags", [])
        return {t["Key"]: t["Value"] for t in held if t["Key"].startswith("Synkti") and t["Key"] != CLUSTER_TAG}


def _describe_end(status: int) -> str:
    """Return how an agent ended, in words. status: as Popen's."""
    if status < 0:
        return f"its agent was ended by {signal.Signals(-status).name}"
    return "its agent drained and ended" if status == 0 else f"its agent ended with status {status}"


def _version(group: dict[str, Any]) -> str:
    """Return the deployed version, which new instances get."""
    return next((tag["Value"] for tag in group["Tags"] if tag["Key"] == VERSION_TAG), "")
