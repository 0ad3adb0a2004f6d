"""Nodes with identities: what a process gets that has the cluster's key and is no instance of the cluster."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import uvloop

from node_agent.contract.tags import NodeTags
from node_agent.core.common.address import Address
from node_agent.core.failure.loss import LossReason
from node_agent.core.node.status import TaggedNode
from node_agent.dependencies import Dependencies
from node_agent.ports import ExchangeLost, Instances
from node_agent.runtime.replication.takeover import TAKE_TARGET
from tests.scenarios.local_fleet import LocalFleet, LocalNode, eventually, unready_fleet
from tests.scenarios.streams import CHAT, expected, open_stream, read_until

STRANGER = "i-00000002"


class WithoutTags:
    """EC2 for a process that is no instance: it reads the tags, and cannot write any."""

    def __init__(self, instances: Instances) -> None:
        self.nodes = instances.nodes

    async def tag(self, instance_id: str, tags: NodeTags) -> None:
        """There is nothing to tag."""

    async def untag(self, instance_id: str) -> None:
        """There is nothing to tag."""


def as_stranger(outside: Dependencies) -> Dependencies:
    if outside.identity.instance_id != STRANGER:
        return outside
    return replace(outside, instances=WithoutTags(outside.instances))


def unvouched(node: LocalNode) -> list[str]:
    return [status.instance_id for status in node.agent.parts.node.members.view.unvouched]


def test_a_process_with_the_clusters_key_alone_gets_no_prompt_and_no_journal(tmp_path: Path) -> None:
    async def scenario(fleet: LocalFleet) -> None:
        one, two, stranger = fleet.nodes
        for node in fleet.nodes:
            await eventually(f"{node.instance_id} is ready", partial(fleet.ready, node))
        for node in (one, two):
            await eventually("the two see each other", partial(fleet.sees, node, 2))

        async def has_joined() -> bool:
            return unvouched(one) == unvouched(two) == [STRANGER]

        await eventually("the stranger is a member that EC2 does not vouch for", has_joined)
        for number in range(4):
            body = {**CHAT, "messages": [{"role": "user", "content": f"a night train {number}"}]}
            async with open_stream(fleet, one, "chat", body) as reader:
                await read_until(reader, 10)
            assert reader.text == expected("chat", body).text
        parts = stranger.agent.parts
        assert len(parts.replication.server.store) == 0, "no journal"
        assert await served(fleet, stranger) == 0, "no prompt"

        signed = parts.membership.signed
        address = Address(one.host, 8001)
        response = await signed.open(address, "POST", TAKE_TARGET, headers={}, body=b"{}", read_timeout_s=5)
        assert response.status == 401
        response.close()
        to_stranger = Address(stranger.host, 8001)
        with pytest.raises(ExchangeLost) as lost:
            await one.agent.parts.membership.signed.open(
                to_stranger, "POST", TAKE_TARGET, headers={}, body=b"{}", read_timeout_s=5
            )
        assert lost.value.loss is LossReason.NOT_A_PEER

        await let_in(fleet, stranger)

    async def run() -> None:
        async with unready_fleet(tmp_path, through=as_stranger) as fleet:
            await scenario(fleet)

    uvloop.run(run())


async def served(fleet: LocalFleet, node: LocalNode) -> int:
    """Return how many requests of peers a node's peer API has accepted so far."""
    return len(node.agent.parts.membership.verifier._seen)


async def let_in(fleet: LocalFleet, node: LocalNode) -> None:
    """Tag the stranger as an instance would; the fleet of three then is complete without a restart."""
    status = node.agent.parts.node.status()
    tags = NodeTags("synkti", status.state, status.peer_address, public_key=status.public_key)
    await fleet.instances.tag(node.instance_id, tags)
    found = [tagged for tagged in await fleet.instances.nodes("synkti") if tagged.instance_id == node.instance_id]
    assert found == [TaggedNode(node.instance_id, status.peer_address, status.state, status.public_key)]
    for each in fleet.nodes:
        await eventually("all three see all", partial(fleet.sees, each, 3))
