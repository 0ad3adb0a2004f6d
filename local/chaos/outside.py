"""Injects faults around the nodes: invalid tags in EC2, outages of AWS services and of instance metadata."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence

from local.aws_gate import Outage
from local.chaos.fleet import ChaosFleet
from local.emulated_instance import EmulatedInstance
from node_agent.contract.tags import ADDRESS_TAG, CLUSTER_TAG, DEADLINE_TAG, ROLE_TAG, STATE_TAG, WORKER_ROLE

_ODD_TAG_S = 15.0
_OUTAGE_S = 8.0

ODD_TAGS = (
    {ADDRESS_TAG: "10.71.3.7"},
    {ADDRESS_TAG: "node-7.example.internal:8001"},
    {ADDRESS_TAG: "[::1]:8001"},
    {ADDRESS_TAG: "127.0.0.1:99999"},
    {ADDRESS_TAG: "ünïcödé:8001", STATE_TAG: "ready"},
    {ADDRESS_TAG: "", STATE_TAG: "flourishing"},
    {ADDRESS_TAG: "300.1.2.3:8001", DEADLINE_TAG: "the day after tomorrow"},
    {STATE_TAG: "draining", DEADLINE_TAG: "9999-99-99T99:99:99Z"},
)


async def odd_tag(fleet: ChaosFleet, instances: Sequence[EmulatedInstance]) -> None:
    """Run an instance that is tagged as a node of this fleet, with values that no node writes."""
    odd = {CLUSTER_TAG: fleet.cluster, ROLE_TAG: WORKER_ROLE, **fleet.next_option("odd-tag", ODD_TAGS)}
    instance_id = await fleet.run_foreign_instance(odd)
    await asyncio.sleep(_ODD_TAG_S)
    await fleet.terminate_foreign_instance(instance_id)


async def aws_outage(fleet: ChaosFleet, instances: Sequence[EmulatedInstance]) -> None:
    """Let one AWS service fail: the services and the kinds of outages in rotation."""
    service = fleet.next_option("service", ("ec2", "s3", "dynamodb", "secretsmanager"))
    fleet.aws_proxy.start_outage(service, fleet.next_option(f"{service} outage", tuple(Outage)))
    try:
        await asyncio.sleep(_OUTAGE_S)
    finally:
        fleet.aws_proxy.end_outage(service)


async def metadata_outage(fleet: ChaosFleet, instances: Sequence[EmulatedInstance]) -> None:
    """Let a node's metadata service accept connections and answer nothing."""
    instance = instances[0]
    instance.signal_imds(signal.SIGSTOP)
    try:
        await asyncio.sleep(_OUTAGE_S)
    finally:
        instance.signal_imds(signal.SIGCONT)
