"""One suite over each port's adapter and its twin in memory."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from typing import Any

import boto3
import pytest

from node_agent.adapters.dynamodb import DynamoRecords
from node_agent.adapters.ec2 import Ec2
from node_agent.adapters.secrets import SecretsManager
from node_agent.contract.drain_record import DrainRecord, DrainStep, drain_from_item
from node_agent.contract.errors import StaleEpoch, StoreUnavailable
from node_agent.contract.states import NodeState
from node_agent.contract.table_schema import (
    RECORD_LIFE_S,
    NodeRecord,
    RecordMissing,
    TimelineStep,
    node_key,
    record_from_item,
)
from node_agent.contract.tags import NodeTags
from node_agent.core.node.status import TaggedNode
from node_agent.ports import Instances, Records, Secrets
from node_agent.testing.fake_keys import MemorySecrets
from node_agent.testing.fakes import MemoryInstances, MemoryRecords
from tests.unit.adapters.conftest import TABLE, run_instance

RECORD = NodeRecord("i-1", "us-east-1a", "g5.xlarge", NodeState.STARTING, 7, 99)
READY = TimelineStep("ready", "agent", 10.0)
NOTICE = TimelineStep("notice-seen", "imds", 11.0)


class Table:
    """A Records port and a look behind it."""

    def __init__(self, port: Records, client: Any) -> None:
        self.port = port
        self._client = client

    def held(self) -> NodeRecord:
        if isinstance(self.port, MemoryRecords):
            return self.port.records["i-1"]
        return record_from_item(boto3.resource("dynamodb").Table(TABLE).get_item(Key=node_key("i-1"))["Item"])

    def drain(self, like: DrainRecord) -> DrainRecord:
        """The drain that is kept where `like` would be."""
        if isinstance(self.port, MemoryRecords):
            return self.port.drains[like.instance_id, like.incarnation]
        key = {name: like.to_item()[name] for name in ("pk", "sk")}
        return drain_from_item(boto3.resource("dynamodb").Table(TABLE).get_item(Key=key)["Item"])


@pytest.fixture(params=["memory", "dynamodb"])
def table(request: pytest.FixtureRequest) -> Table:
    if request.param == "memory":
        return Table(MemoryRecords(), None)
    client = request.getfixturevalue("dynamodb")
    return Table(DynamoRecords(client, TABLE), client)


def test_the_newest_record_of_a_drain_stays(table: Table) -> None:
    record = DrainRecord("i-1", 7, "notice-seen", 130.0, 999, (DrainStep("requested", 9.0),))
    newest = replace(record, steps=(*record.steps, DrainStep("handed-off", 10.5, 3)))

    async def story() -> None:
        await table.port.put_drain(record)
        await table.port.put_drain(newest)

    asyncio.run(story())
    assert table.drain(newest) == newest


def test_a_nodes_record_moves_forward_and_has_each_step_once(table: Table) -> None:
    async def story() -> None:
        await table.port.begin(RECORD)
        await table.port.advance("i-1", 7, NodeState.READY, READY)
        await table.port.advance("i-1", 7, NodeState.DRAINING, NOTICE)
        await table.port.advance("i-1", 7, NodeState.DRAINING, replace(NOTICE, at=99.0))

    asyncio.run(story())
    timeline = {READY.key: READY, NOTICE.key: NOTICE}
    # Each write renews its life; a step that is there already does so, too.
    assert table.held() == replace(RECORD, state=NodeState.DRAINING, timeline=timeline, expires_at=99 + RECORD_LIFE_S)


def test_a_state_that_would_move_back_only_adds_its_step(table: Table) -> None:
    async def story() -> None:
        await table.port.begin(replace(RECORD, state=NodeState.DRAINING))
        await table.port.advance("i-1", 7, NodeState.READY, READY)

    asyncio.run(story())
    held = replace(RECORD, state=NodeState.DRAINING, timeline={READY.key: READY}, expires_at=10 + RECORD_LIFE_S)
    assert table.held() == held


def test_a_newer_incarnation_owns_the_record(table: Table) -> None:
    async def story() -> None:
        await table.port.begin(RECORD)
        await table.port.begin(replace(RECORD, incarnation=8))
        with pytest.raises(StaleEpoch):
            await table.port.advance("i-1", 7, NodeState.READY, READY)

    asyncio.run(story())
    assert table.held() == replace(RECORD, incarnation=8)


def test_a_deleted_record_is_named_and_begins_anew(table: Table) -> None:
    async def story() -> None:
        with pytest.raises(RecordMissing) as missing:
            await table.port.advance("i-1", 7, NodeState.READY, READY)
        assert missing.value.timeline == {}
        await table.port.begin(replace(RECORD, incarnation=0, timeline={NOTICE.key: NOTICE}))
        with pytest.raises(RecordMissing) as older:
            await table.port.advance("i-1", 7, NodeState.READY, READY)
        assert older.value.timeline == {NOTICE.key: NOTICE}
        await table.port.begin(RECORD)
        await table.port.advance("i-1", 7, NodeState.READY, READY)

    asyncio.run(story())
    assert table.held().timeline == {READY.key: READY}


class Fleet:
    """An Instances port over two running instances."""

    def __init__(self, port: Instances, ids: list[str], addresses: list[str]) -> None:
        self.port = port
        self.ids = ids
        self.addresses = addresses


@pytest.fixture(params=["memory", "ec2"])
def fleet(request: pytest.FixtureRequest) -> Fleet:
    if request.param == "memory":
        known = {"i-1": "10.0.0.1", "i-2": "10.0.0.2"}
        return Fleet(MemoryInstances(known, 8001), list(known), list(known.values()))
    client = request.getfixturevalue("ec2")
    pairs = [run_instance(client) for _ in range(2)]
    return Fleet(Ec2(client), [pair[0] for pair in pairs], [pair[1] for pair in pairs])


def test_nodes_discover_each_other_by_their_tags(fleet: Fleet) -> None:
    first, second = fleet.ids

    async def story() -> None:
        assert await fleet.port.nodes("synkti") == []
        await fleet.port.tag(first, NodeTags("synkti", NodeState.READY))
        await fleet.port.tag(second, NodeTags("synkti", NodeState.STARTING, "127.0.0.2:9001", public_key="K" * 44))
        assert sorted(await fleet.port.nodes("synkti"), key=lambda node: fleet.ids.index(node.instance_id)) == [
            TaggedNode(first, f"{fleet.addresses[0]}:8001", NodeState.READY),
            TaggedNode(second, "127.0.0.2:9001", NodeState.STARTING, "K" * 44),
        ]
        assert await fleet.port.nodes("another") == []
        await fleet.port.untag(first)
        assert [node.instance_id for node in await fleet.port.nodes("synkti")] == [second]

    asyncio.run(story())


@pytest.mark.parametrize("odd", ["10.71.3.7", "node-7.internal:8001", "[::1]:8001", "10.71.3.7:70000", "0.0.0.0:1"])
def test_a_tag_without_an_address_counts_as_absent(fleet: Fleet, odd: str) -> None:
    async def story() -> None:
        await fleet.port.tag(fleet.ids[0], NodeTags("synkti", NodeState.READY, odd))
        expected = [TaggedNode(fleet.ids[0], f"{fleet.addresses[0]}:8001", NodeState.READY)]
        assert await fleet.port.nodes("synkti") == expected

    asyncio.run(story())


def test_a_deadline_is_removed_with_the_drain_that_set_it(fleet: Fleet) -> None:
    async def story() -> None:
        await fleet.port.tag(fleet.ids[0], NodeTags("synkti", NodeState.DRAINING, deadline=100.0))
        await fleet.port.tag(fleet.ids[0], NodeTags("synkti", NodeState.READY))

    asyncio.run(story())
    port: Any = fleet.port
    if isinstance(port, MemoryInstances):
        tags = set(port.tags[fleet.ids[0]])
    else:
        answer = boto3.client("ec2").describe_instances(InstanceIds=[fleet.ids[0]])
        tags = {tag["Key"] for tag in answer["Reservations"][0]["Instances"][0]["Tags"]}
    assert tags == {"SynktiCluster", "SynktiRole", "SynktiState"}


@pytest.fixture(params=["memory", "secrets manager"])
def secrets(request: pytest.FixtureRequest) -> Secrets:
    if request.param == "memory":
        return MemorySecrets({"synkti/cluster-key": b"key"})
    request.getfixturevalue("aws")
    client = boto3.client("secretsmanager")
    client.create_secret(Name="synkti/cluster-key", SecretString="key")
    return SecretsManager(client)


def test_a_secret_is_read_and_a_missing_one_is_named(secrets: Secrets) -> None:
    assert asyncio.run(secrets.read("synkti/cluster-key")) == b"key"
    with pytest.raises(StoreUnavailable, match="nothing/here"):
        asyncio.run(secrets.read("nothing/here"))


def test_a_service_that_hangs_delays_no_other() -> None:
    """S3 or EC2 behind a network that swallows everything: each call keeps a thread until its last try is over."""
    over = threading.Event()

    class Hangs:
        def create_tags(self, **given: object) -> None:
            over.wait(30)

        delete_tags = create_tags

    class Answers:
        def put_item(self, **given: object) -> None:
            """At once."""

    async def story() -> None:
        ec2, records = Ec2(Hangs()), DynamoRecords(Answers(), "table")
        hanging = [asyncio.create_task(ec2.untag("i-1")) for _ in range(64)]
        await asyncio.sleep(0)
        async with asyncio.timeout(10):
            await records.begin(NodeRecord("i-1", "z", "t", NodeState.READY, 7, 99))
            assert await asyncio.to_thread(lambda: "a disk") == "a disk"
        over.set()
        await asyncio.gather(*hanging)

    asyncio.run(story())
