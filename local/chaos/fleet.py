"""Runs the chaos fleet: instances in the embedded EC2, an agent process for each, replaced when they end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import httpx

from local.aws import ACCOUNT, REGION, EmbeddedAws
from local.aws_fault_proxy import AwsFaultProxy
from local.chaos.unanswerable_counts import UnanswerableCounts
from local.emulated_instance import EmulatedInstance, InstanceTemplate
from local.errors import LocalRunError
from local.imds import InstanceMetadata
from local.process_cleanup import processes_in, tail
from node_agent.contract.names import checkpoints_bucket_name, cluster_key_secret_name, table_name
from node_agent.contract.table_schema import PARTITION_KEY, SORT_KEY
from node_agent.contract.tags import CLUSTER_TAG, ROLE_TAG, WORKER_ROLE

ZONES = ("us-east-1a", "us-east-1b", "us-east-1c")
INSTANCE_TYPE = "g5.xlarge"
_LOOP_INTERVAL_S = 0.2
_MAX_FAILURES = 3
_EXIT_TEMPORARY = 75
"""The agent's status if AWS failed while it booted; systemd would restart it."""

_ADDRESSES = 250

_T = TypeVar("_T")


class ChaosFleet:
    """size: how many nodes there are to be; serving: instance ids that answer as ready, as of the last look.

    aws_proxy: in front of the AWS that the nodes use.
    """

    def __init__(
        self, aws: EmbeddedAws, aws_proxy: AwsFaultProxy, kind: InstanceTemplate, network: str, size: int
    ) -> None:
        self.aws_proxy = aws_proxy
        self._ec2 = aws.client("ec2")
        self._secrets = aws.client("secretsmanager")
        self._s3 = aws.client("s3")
        self._dynamodb = aws.client("dynamodb")
        self._template = kind
        self.cluster = kind.cluster
        self.environ = kind.environ
        self.protection = kind.protection
        self._network = network
        self._size = size
        self._launched = 0
        self._failed = 0
        self._counters = Counter[str]()
        self.unanswerable = UnanswerableCounts()
        self._http = httpx.AsyncClient(timeout=1.0, headers=kind.protection.headers)
        self.instances: list[EmulatedInstance] = []
        self.ready_ids: set[str] = set()
        self.under_fault: set[str] = set()
        self.addresses: dict[str, str] = {}

    async def run(self) -> None:
        """Keep the fleet at its size until cancelled. Raises LocalRunError if nodes end by themselves."""
        await asyncio.to_thread(self._prepare_aws)
        try:
            while True:
                for instance in [m for m in self.instances if not m.running]:
                    await self._remove(instance)
                while len(self.instances) < self._size:
                    await self._launch()
                await asyncio.gather(*(self._update_ready(instance) for instance in self.instances))
                await asyncio.sleep(_LOOP_INTERVAL_S)
        finally:
            await self._http.aclose()

    @property
    def stable(self) -> list[EmulatedInstance]:
        """The nodes that serve and have no fault."""
        return [m for m in self.instances if m.instance_id in self.ready_ids and m.instance_id not in self.under_fault]

    async def wait_for(self, what: str, check: Callable[[], bool], within_s: float) -> None:
        """Wait for a condition. Raises LocalRunError with the ends of the logs after `within_s`."""
        give_up_at = asyncio.get_running_loop().time() + within_s
        while not check():
            if asyncio.get_running_loop().time() > give_up_at:
                logs = "\n".join(f"{m.log}:\n{tail(m.log)}" for m in self.instances)
                raise LocalRunError(f"not within {within_s:.0f} s: {what}; the nodes' logs:\n{logs}")
            await asyncio.sleep(0.05)

    async def metric(self, instance: EmulatedInstance, name: str) -> float:
        """Return one of the node's metrics, 0 if it does not answer."""
        with contextlib.suppress(httpx.HTTPError):
            text = (await self._http.get(f"{instance.admin_url}/metrics")).text
            return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name))
        return 0.0

    def next_option(self, name: str, options: Sequence[_T]) -> _T:
        """Return the next of the options, in rotation."""
        return options[(self.next_number(name) - 1) % len(options)]

    def next_number(self, name: str) -> int:
        """Return 1, 2, 3, ... for each name."""
        self._counters[name] += 1
        return self._counters[name]

    async def run_foreign_instance(self, tags: Mapping[str, str]) -> str:
        """Run an instance with these tags and no agent; return its id."""
        return await self._run_instance(tags)

    async def terminate_foreign_instance(self, instance_id: str) -> None:
        """Terminate an instance that `run_foreign_instance` has started."""
        await asyncio.to_thread(self._ec2.terminate_instances, InstanceIds=[instance_id])

    def _prepare_aws(self) -> None:
        """Create what the stacks would deploy: the cluster's key, the table, a bucket."""
        cluster = self._template.cluster
        self._secrets.create_secret(Name=cluster_key_secret_name(cluster), SecretString=os.urandom(16).hex())
        self._s3.create_bucket(Bucket=checkpoints_bucket_name(cluster, ACCOUNT, REGION))
        keys = ((PARTITION_KEY, "HASH"), (SORT_KEY, "RANGE"))
        self._dynamodb.create_table(
            TableName=table_name(cluster),
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name, _ in keys],
            KeySchema=[{"AttributeName": name, "KeyType": kind} for name, kind in keys],
        )

    async def _run_instance(self, tags: Mapping[str, str]) -> str:
        tag_list = [{"Key": key, "Value": value} for key, value in tags.items()]
        answer = await asyncio.to_thread(
            self._ec2.run_instances, ImageId="ami-00000000000000000", MinCount=1, MaxCount=1,
            InstanceType=INSTANCE_TYPE, TagSpecifications=[{"ResourceType": "instance", "Tags": tag_list}],
        )  # fmt: skip
        return str(answer["Instances"][0]["InstanceId"])

    async def _update_ready(self, instance: EmulatedInstance) -> None:
        ready = False
        with contextlib.suppress(httpx.HTTPError):
            ready = (await self._http.get(f"{instance.url}/readyz")).status_code == 200
        (self.ready_ids.add if ready else self.ready_ids.discard)(instance.instance_id)

    async def _launch(self) -> None:
        number = self._launched
        self._launched += 1
        instance_id = await self._run_instance({CLUSTER_TAG: self._template.cluster, ROLE_TAG: WORKER_ROLE})
        here = [sum(m.metadata.zone == zone for m in self.instances) for zone in ZONES]
        metadata = InstanceMetadata(
            instance_id=instance_id,
            zone=ZONES[here.index(min(here))],
            region=REGION,
            instance_type=INSTANCE_TYPE,
            address=f"{self._network}.{number % _ADDRESSES + 1}",
        )
        self.instances.append(await asyncio.to_thread(EmulatedInstance, self._template, metadata))
        self.addresses[metadata.instance_id] = metadata.address

    async def _remove(self, instance: EmulatedInstance) -> None:
        status = instance.agent.wait()
        self._failed += (
            status not in (0, _EXIT_TEMPORARY) and not instance.killed and instance.instance_id not in self.under_fault
        )
        if self._failed >= _MAX_FAILURES:
            raise LocalRunError(f"nodes end by themselves; the log {instance.log} ends:\n{tail(instance.log)}")
        self.instances.remove(instance)
        self.ready_ids.discard(instance.instance_id)
        await asyncio.to_thread(instance.close)
        await asyncio.to_thread(self._ec2.terminate_instances, InstanceIds=[instance.instance_id])


def signal_all(folder: Path, number: signal.Signals) -> None:
    """Send a signal to every process of an instance."""
    for pid in processes_in(folder):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def kill_engine_core(instance: EmulatedInstance) -> None:
    """Kill the engine's youngest process: in a vLLM its core, which leaves the API server alone in its group."""
    if (group := engine_group(instance)) is None:
        return
    with contextlib.suppress(OSError, ValueError):
        members = [pid for pid in processes_in(instance.folder) if os.getpgid(pid) == group]
        os.kill(max(members), signal.SIGKILL)


def signal_engine(instance: EmulatedInstance, number: signal.Signals) -> None:
    """Send a signal to the engine's process group."""
    if (group := engine_group(instance)) is not None:
        with contextlib.suppress(OSError):
            os.killpg(group, number)


def engine_group(instance: EmulatedInstance) -> int | None:
    """Return the engine's process group from its agent's file, None without one."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int((instance.folder / "engine.group").read_text().split()[1])
    return None
