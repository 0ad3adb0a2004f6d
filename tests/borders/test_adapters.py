"""Arbitrary replies below each adapter: its result is a valid value of the port, None, or one of the port's errors.

The adapters and their methods are derived from the ports: one that is added needs its call and check here.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, ReadTimeoutError
from botocore.parsers import ResponseParserError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from node_agent import ports
from node_agent.adapters.auto_scaling import AutoScaling
from node_agent.adapters.block_store import S3BlockStore
from node_agent.adapters.checkpoints import AwsCheckpoints
from node_agent.adapters.dynamodb import DynamoRecords
from node_agent.adapters.ec2 import Ec2
from node_agent.adapters.imds import Imds
from node_agent.adapters.key_stores import SecretKeyStore
from node_agent.adapters.remembered import Remembered
from node_agent.adapters.secrets import SecretsManager
from node_agent.adapters.stream_records import DynamoStreamRecords
from node_agent.contract.addresses import node_address
from node_agent.contract.aws_events import InterruptionNotice
from node_agent.contract.drain_record import DrainRecord
from node_agent.contract.errors import MetadataUnavailable, StaleEpoch, StoreUnavailable
from node_agent.contract.open_streams import OpenStream, OpenStreams
from node_agent.contract.ownership import Ownership
from node_agent.contract.states import NodeState
from node_agent.contract.table_schema import NodeRecord, RecordMissing, StreamRecord, StreamStatus, TimelineStep
from node_agent.contract.tags import NodeTags
from node_agent.core.failure.loss import LossReason
from node_agent.core.kv.index import Batch, Index
from node_agent.core.node.status import TaggedNode
from node_agent.ports import ExchangeLost, Identity
from tests.borders.port_protocols import methods, protocols

STREAM = "a" * 24
RECORD = StreamRecord(STREAM, 1, "i-1", 1, StreamStatus.ORPHANED, "journals/x", 0, 10, "d", 99)
OPEN = OpenStreams("i-1", 7, (OpenStream(STREAM, 1, "i-1", 1, 1.0),), 99)
OWNED = Ownership(STREAM, 1, "i-1", StreamStatus.CLOSED, 1, 1.0, 1.0, 99)
INDEX = Index(b"f" * 8, (), (), "")

NAMES = st.sampled_from(
    ["Item", "Reservations", "Instances", "Tags", "Key", "Value", "InstanceId", "PrivateIpAddress", "Body", "Error",
     "SecretString", "SecretBinary", "incarnation", "timeline", "N", "S", "M", "L", "BOOL", "stream", "epoch_number",
     "epoch_owner", "seq", "status", "object_key", "start", "length", "digest", "expires_at", "SynktiCluster",
     "streams", "replicas", "left_out", "instance_id", "stream_status", "status_rank", "since_ms", "changed_ms"]
)  # fmt: skip


class Body:
    """A body of an S3 response."""

    def __init__(self, reply: object) -> None:
        self._reply = reply

    def read(self, amount: int | None = None) -> Any:
        if isinstance(self._reply, Exception):
            raise self._reply
        return self._reply[:amount] if isinstance(self._reply, bytes) and amount is not None else self._reply


ERRORS = st.sampled_from(
    [
        ClientError({"Error": {"Code": "ConditionalCheckFailedException", "Message": "x"}}, "x"),
        ClientError({"Error": {"Code": "NoSuchKey"}}, "x"),
        ClientError({"Error": {"Code": "ValidationError", "Message": "No active Lifecycle Action"}}, "x"),
        ClientError({}, "x"),
        EndpointConnectionError(endpoint_url="http://x"),
        ReadTimeoutError(endpoint_url="http://x"),
        ResponseParserError("Unable to parse response"),
        OSError("closed"),
        ConnectionResetError(),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        AttributeError("'list' object has no attribute 'get'"),
        KeyError("x"),
        RecursionError(),
        OverflowError(),
    ]
)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.binary(max_size=12)
BODIES = st.builds(Body, st.binary(max_size=100) | LEAVES | ERRORS)
RUBBISH = st.recursive(
    LEAVES | BODIES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES | st.text(max_size=5), inner, max_size=6),
    max_leaves=24,
)
TAGS = st.lists(
    st.fixed_dictionaries(
        {"Key": st.sampled_from(["SynktiCluster", "SynktiRole", "SynktiAddress", "SynktiState", "SynktiDeadline"]),
         "Value": st.sampled_from(["synkti", "worker", "10.71.3.7", "10.71.3.7:8001", "x"]) | st.text(max_size=30)}
    )
    | RUBBISH,
    max_size=5,
)  # fmt: skip
INSTANCES = st.dictionaries(NAMES, RUBBISH, max_size=3).flatmap(
    lambda more: st.fixed_dictionaries({"InstanceId": st.just("i-1") | RUBBISH, "Tags": TAGS | RUBBISH,
        "PrivateIpAddress": st.just("10.0.0.1") | RUBBISH}).map(lambda instance: {**more, **instance})
)  # fmt: skip
ANSWERS = st.one_of(
    RUBBISH,
    ERRORS,
    st.builds(lambda each: {"Reservations": [{"Instances": each}]}, st.lists(INSTANCES | RUBBISH, max_size=3)),
    st.builds(lambda item: {"Item": item}, st.dictionaries(NAMES, RUBBISH, max_size=12)),
    st.builds(lambda body: {"Body": body}, BODIES),
)


class Client:
    """boto3's, of any service: each call answers with the next rubbish."""

    def __init__(self, answers: list[Any]) -> None:
        self._answers = answers or [None]
        self._count = 0

    def _next(self, *_: Any, **__: Any) -> Any:
        self._count += 1
        answer = self._answers[self._count % len(self._answers)]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def get_paginator(self, _: str) -> Any:
        return self

    def paginate(self, **_: Any) -> Iterator[Any]:
        for _ in self._answers:
            yield self._next()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return self._next


@dataclass
class Answer:
    """The Response port over a body at once."""

    status: int
    body: bytes
    headers: Mapping[bytes, bytes] = field(default_factory=dict)

    async def read_all(self, max_bytes: int) -> bytes:
        if len(self.body) > max_bytes:
            raise ExchangeLost(LossReason.TOO_LARGE)
        return self.body

    def close(self) -> None:
        """Nothing is open."""


class OddHttp:
    """The Http port: a good token, then any answers."""

    def __init__(self, answers: list[Answer | None]) -> None:
        self._answers = answers or [None]
        self._count = 0

    async def open(self, address: object, method: str, target: str, **_: Any) -> Any:
        self._count += 1
        answer = self._answers[self._count % len(self._answers)]
        if method == "PUT" and self._count < 3:
            return Answer(200, b"token")
        if answer is None:
            raise ExchangeLost(LossReason.RESET)
        return answer


IMDS_BODIES = st.binary(max_size=100) | st.sampled_from(
    [b"", b"\xff\xfe{}", b"<html>", b"{}", b"[]", b"null", b'{"action":"stop"}', b"[" * 60_000, b"x" * 70_000,
     b'{"action":"terminate","time":"2027-01-01T00:00:00"}',
     b'{"action":"terminate","time":"0001-01-01T00:00:00+14:00"}',
     b'{"noticeTime":1}', b"Terminated", b"i-1\r\nx: y", b"10.0.0.1", b"us-east-1", b"0.0.0.0"]
)  # fmt: skip
IMDS = st.lists(
    st.none()
    | st.builds(
        Answer,
        st.sampled_from([200, 200, 200, 401, 404, 500, 0, 999]),
        IMDS_BODIES,
        st.dictionaries(st.just(b"date"), st.binary(max_size=40) | st.just(b"Sun, 29 Nov 2026 17:00:00 GMT")),
    ),
    max_size=6,
)


def _nodes(found: Any) -> bool:
    return all(
        type(node) is TaggedNode and node_address(node.peer_address) and type(node.instance_id) is str for node in found
    )


def _identity(found: Any) -> bool:
    return node_address(f"{found.private_address}:1") is not None and found.instance_id.isprintable()


NOTHING: Callable[[Any], bool] = lambda found: found is None  # noqa: E731 # a table of checks
CALLS: dict[tuple[str, str], tuple[tuple[Any, ...], Callable[[Any], bool]]] = {
    ("Instances", "tag"): (("i-1", NodeTags("synkti", NodeState.READY)), NOTHING),
    ("Instances", "untag"): (("i-1",), NOTHING),
    ("Instances", "nodes"): (("synkti", 3), _nodes),
    ("Records", "begin"): ((NodeRecord("i-1", "z", "t", NodeState.READY, 7, 9),), NOTHING),
    ("Records", "advance"): (("i-1", 7, NodeState.READY, TimelineStep("ready", "agent", 1.0)), NOTHING),
    ("Records", "put_drain"): ((DrainRecord("i-1", 7, "x", 1.0, 9),), NOTHING),
    ("Checkpoints", "write"): (("k", b"b", [RECORD]), lambda found: found in (0, 1)),
    ("Checkpoints", "find"): ((STREAM,), lambda found: found is None or found.stream == STREAM),
    ("Checkpoints", "read"): ((RECORD,), lambda found: found is None or len(found) == RECORD.length),
    ("StreamRecords", "write_open"): ((OPEN,), NOTHING),
    ("StreamRecords", "read_open"): (("i-1",), lambda found: found is None or found.instance_id == "i-1"),
    ("StreamRecords", "advance"): (([OWNED, OWNED],), lambda found: found in (0, 1, 2)),
    ("StreamRecords", "find"): ((STREAM,), lambda found: found is None or found.stream == STREAM),
    ("BlockStore", "keep"): ((STREAM, INDEX, lambda _: None), NOTHING),
    ("BlockStore", "index"): ((b"f" * 8, STREAM), lambda found: found is None or type(found) is Index),
    ("BlockStore", "fetch"): ((INDEX, Batch((), 0, 5)), lambda found: len(found) == 5),
    ("ScalingGroup", "complete_termination"): (("i-1",), lambda found: type(found) is bool),
    ("Secrets", "read"): (("name",), lambda found: type(found) is bytes and bool(found)),
    ("KeyStore", "read"): ((), lambda found: type(found) is bytes and bool(found)),
    ("Metadata", "identity"): ((), lambda found: type(found) is Identity and _identity(found)),
    ("Metadata", "interruption"): ((), lambda found: found is None or type(found) is InterruptionNotice),
    ("Metadata", "rebalance"): ((), lambda found: found is None or (math.isfinite(found) and found >= 0)),
    ("Metadata", "termination_requested"): ((), lambda found: type(found) is bool),
}
"""Arguments of each method, and a check of its value."""

ADAPTERS: dict[str, Callable[[list[Any]], Any]] = {
    "Instances": lambda replies: Ec2(Client(replies)),
    "Records": lambda replies: DynamoRecords(Client(replies), "t"),
    "Checkpoints": lambda replies: AwsCheckpoints(Client(replies), "b", Client(replies), "t"),
    "StreamRecords": lambda replies: DynamoStreamRecords(Client(replies), "t"),
    "BlockStore": lambda replies: S3BlockStore(Client(replies), "b"),
    "ScalingGroup": lambda replies: AutoScaling(Client(replies), "g"),
    "Secrets": lambda replies: SecretsManager(Client(replies)),
    "KeyStore": lambda replies: SecretKeyStore(SecretsManager(Client(replies)), "name", Remembered(None)),
    "Metadata": lambda replies: Imds("http://169.254.169.254", OddHttp(replies)),  # type: ignore[arg-type] # what it uses
}
OTHERS = {
    "Response", "Http", "ServerRequest", "Datagrams", "ReplicaLink", "ReplicaLinks", "LinkListener", "EngineGroup",
    "EngineSteps", "PeerKeys", "Certificate", "AuditLog",
}  # fmt: skip
"""Ports over sockets, files and processes, and PeerKeys, which is our own record of what Instances returned: these are
in tests/borders/test_whole_agent.py, tests/fuzz and their adapters' own tests."""

OWN_MEMORY = {("KeyStore", "interval_s"), ("KeyStore", "remembered"), ("KeyStore", "keep")}
"""Methods that ask nothing of the outside: tests/unit/adapters/test_key_stores.py."""

ALLOWED = {
    ("Records", "advance"): (StaleEpoch, RecordMissing, StoreUnavailable),
    ("StreamRecords", "write_open"): (StaleEpoch, StoreUnavailable),
    **{
        ("Metadata", name): (MetadataUnavailable,)
        for name in ("identity", "interruption", "rebalance", "termination_requested")
    },
}


def test_every_port_of_the_agent_is_listed() -> None:
    assert set(protocols()) == set(ADAPTERS) | OTHERS == set(protocols()) & set(ports.__all__)
    assert {(name, each) for name in ADAPTERS for each in methods(protocols()[name])} == set(CALLS) | OWN_MEMORY


@pytest.mark.parametrize("border", sorted(CALLS), ids="{0[0]}.{0[1]}".format)
@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_an_arbitrary_reply_is_a_valid_value_or_one_of_the_ports_errors(
    border: tuple[str, str], data: st.DataObject
) -> None:
    port, method = border
    replies: list[Any] = data.draw(IMDS if port == "Metadata" else st.lists(ANSWERS, min_size=1, max_size=4))
    arguments, is_value = CALLS[border]

    async def scenario() -> Any:
        return await getattr(ADAPTERS[port](replies), method)(*arguments)

    try:
        found = asyncio.run(scenario())
    except ALLOWED.get(border, (StoreUnavailable,)):
        return
    assert is_value(found), found
