"""Find a cluster's nodes by their EC2 tags, for commands that run outside of it."""

from __future__ import annotations

import asyncio

from botocore.exceptions import BotoCoreError

from cli.errors import NotFound
from node_agent.adapters.aws import aws_client
from node_agent.adapters.ec2 import Ec2
from node_agent.contract.errors import TransientError
from node_agent.contract.names import FRONT_DOOR_PORT, PEER_DOOR_PORT
from node_agent.contract.states import NodeState


class NoNodesFound(NotFound):
    """No node was found."""


def node_urls_by_tag(cluster: str, region: str | None = None, *, tls: bool = False) -> list[str]:
    """Return the client API's URLs of the cluster's running nodes, https with `tls`. Raises NoNodesFound."""
    try:
        ec2 = Ec2(aws_client("ec2", region), PEER_DOOR_PORT)
        nodes = asyncio.run(ec2.nodes(cluster))
    except (TransientError, BotoCoreError) as error:
        raise NoNodesFound(f"EC2 does not answer: {error}", "check credentials and region") from error
    hosts = [node.peer_address.rpartition(":")[0] for node in nodes if node.state is not NodeState.GONE]
    if not hosts:
        raise NoNodesFound(
            f"no running instance carries the tag SynktiCluster={cluster}", "synkti nodes shows the nodes"
        )
    return [f"{'https' if tls else 'http'}://{host}:{FRONT_DOOR_PORT}" for host in hosts]
