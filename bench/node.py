"""Runs one agent as a node does, with a fake AWS in memory and a fixed list of peers.

    python -m bench.node i-0001 127.0.0.2 --peer i-0002=127.0.0.3 --peer i-0003=127.0.0.4

Everything else is a SYNKTI_ variable, as for the real agent (node_agent/settings).
"""

from __future__ import annotations

import argparse
import logging
import os
import sys

import uvloop

from node_agent.adapters.http import HttpClient
from node_agent.adapters.node_key import NodeKey
from node_agent.adapters.process_memory import tune_gc
from node_agent.agent import Agent
from node_agent.contract.states import NodeState
from node_agent.contract.tags import NodeTags
from node_agent.dependencies import Dependencies
from node_agent.ports import Identity
from node_agent.settings import from_environ
from node_agent.testing.fakes import MemoryInstances, MemoryMetadata, MemoryRecords

_REGION = "us-east-1"
_ZONES = "abc"
_KEY = b"the bench's own cluster key"


async def run(instance_id: str, address: str, peers: dict[str, str]) -> int:
    """Run the agent to its end; return its exit code. peers: instance id -> private address."""
    settings = from_environ(os.environ)
    instances = MemoryInstances({instance_id: address, **peers}, settings.peer.port)
    for peer in peers:
        tags = NodeTags(settings.cluster, NodeState.READY, public_key=NodeKey.of_seed(peer.encode()).public)
        await instances.tag(peer, tags)
    # Each in a zone of its own, because replicas are chosen outside the entry's pool.
    zone = _REGION + _ZONES[sorted({instance_id, *peers}).index(instance_id) % len(_ZONES)]
    identity = Identity(instance_id, zone, _REGION, "g5.xlarge", address)
    own_key = NodeKey.of_seed(instance_id.encode())  # so that each process has the others' public keys without an EC2
    outside = Dependencies(identity, MemoryMetadata(identity), instances, MemoryRecords(), _KEY, node_key=own_key)
    client = HttpClient()
    try:
        return await Agent(settings, outside, client).run()
    finally:
        await client.close()


def main() -> int:
    """Run the node that the command line describes; return the agent's exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.node")
    parser.add_argument("instance_id")
    parser.add_argument("address", help="private address; the doors' own are SYNKTI_ variables")
    parser.add_argument("--peer", action="append", default=[], metavar="ID=ADDRESS")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    tune_gc()
    return uvloop.run(run(given.instance_id, given.address, dict(peer.split("=", 1) for peer in given.peer)))


if __name__ == "__main__":
    sys.exit(main())
