"""Makes every call of the agent and of its boot scripts' programs: each adapter's methods, with the fleet's names."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import suppress

from checks.assemblies import ACCOUNT, REGION
from node_agent.adapters.auto_scaling import AutoScaling
from node_agent.adapters.aws import aws_client
from node_agent.adapters.block_store import S3BlockStore
from node_agent.adapters.checkpoints import AwsCheckpoints
from node_agent.adapters.dynamodb import DynamoRecords
from node_agent.adapters.ec2 import Ec2
from node_agent.adapters.key_stores import SecretKeyStore
from node_agent.adapters.model_store import ModelStore, s3_client
from node_agent.adapters.remembered import Remembered
from node_agent.adapters.secrets import SecretsManager
from node_agent.adapters.stream_records import DynamoStreamRecords
from node_agent.contract import names
from node_agent.contract.drain_record import DrainRecord
from node_agent.contract.errors import SynktiError
from node_agent.contract.open_streams import OpenStream, OpenStreams
from node_agent.contract.ownership import Ownership
from node_agent.contract.states import NodeState
from node_agent.contract.table_schema import NodeRecord, StreamRecord, StreamStatus, TimelineStep
from node_agent.contract.tags import NodeTags
from node_agent.core.kv.blocks import block_name, chain, chain_root
from node_agent.core.kv.index import Index, plan_batches
from node_agent.core.node.promise_metrics import Counts, metric_data
from node_agent.publish_metrics import cloudwatch_publisher
from tests.aws_calls.recording import Recorder

CLUSTER, MODEL = "synkti", "model"
NODE = "i-0123456789abcdef0"
GROUP = names.auto_scaling_group_name(CLUSTER)
TABLE = names.table_name(CLUSTER)
MODELS = names.models_bucket_name(CLUSTER, ACCOUNT, REGION)
CHECKPOINTS = names.checkpoints_bucket_name(CLUSTER, ACCOUNT, REGION)
STREAM = "ab" * 12
MIB = 1024 * 1024
OPEN_STREAMS = OpenStreams(NODE, 7, (OpenStream(STREAM, 1, NODE, 40, 10.0),), 2_000_000_000)
_REFUSED = "ConditionalCheckFailedException"


def call_as_agent(recorder: Recorder) -> None:
    """Call everything once, also what follows an error."""
    asyncio.run(_all(recorder))


async def _all(recorder: Recorder) -> None:
    await _instance()
    await _records(recorder)
    await _journals()
    await _streams(recorder)
    await _contexts(recorder)
    publish = cloudwatch_publisher(REGION)
    secrets = SecretsManager(aws_client("secretsmanager", REGION))
    await _attempt(secrets.read(names.cluster_key_secret_name(CLUSTER)))
    await _attempt(SecretKeyStore(secrets, names.client_keys_secret_name(CLUSTER), Remembered(None)).read())
    await asyncio.to_thread(_model, recorder)
    publish(metric_data(1.0, Counts({names.BROKEN_METRIC: 1.0}, {0.1: 1.0}), Counts(), CLUSTER))


async def _attempt(call: Awaitable[object]) -> None:
    """Make a call whose made answer may be none that the adapter accepts."""
    with suppress(SynktiError):
        await call


async def _instance() -> None:
    ec2 = Ec2(aws_client("ec2", REGION))
    await ec2.tag(NODE, NodeTags(CLUSTER, NodeState.READY, public_key="A" * 44))
    await ec2.tag(NODE, NodeTags(CLUSTER, NodeState.DRAINING, deadline=1_800_000_000.0, address="10.0.0.1:8001"))
    await ec2.untag(NODE)
    await ec2.nodes(CLUSTER)
    await AutoScaling(aws_client("autoscaling", REGION), GROUP).complete_termination(NODE)


async def _records(recorder: Recorder) -> None:
    records, step = DynamoRecords(aws_client("dynamodb", REGION), TABLE), TimelineStep("ready", "agent", 10.0)
    await records.begin(NodeRecord(NODE, "us-east-1a", "g5.xlarge", NodeState.STARTING, 7, 99))
    await records.advance(NODE, 7, NodeState.READY, step)
    with recorder.refusing(UpdateItem=_REFUSED):
        await _attempt(records.advance(NODE, 7, NodeState.READY, step))
    await records.put_drain(DrainRecord(NODE, 7, "notice-seen", 130.0, 999))


async def _journals() -> None:
    s3, dynamodb = aws_client("s3", REGION), aws_client("dynamodb", REGION)
    checkpoints, key = AwsCheckpoints(s3, CHECKPOINTS, dynamodb, TABLE), f"{names.JOURNALS_PREFIX}{NODE}/7-0"
    record = StreamRecord(STREAM, 2, NODE, 40, StreamStatus.HANDED_OFF, key, 3, 4, "digest", 99)
    await checkpoints.write(key, b"abcdefghi", [record])
    await _attempt(checkpoints.find(STREAM))
    await _attempt(checkpoints.read(record))


async def _streams(recorder: Recorder) -> None:
    records = DynamoStreamRecords(aws_client("dynamodb", REGION), TABLE)
    await records.write_open(OPEN_STREAMS)
    with recorder.refusing(UpdateItem=_REFUSED):
        await records.write_open(OPEN_STREAMS)
    await records.advance([Ownership(STREAM, 2, NODE, StreamStatus.CLOSED, 40, 10.0, 20.0, 99)])
    await records.read_open(NODE)
    await records.find(STREAM)


async def _contexts(recorder: Recorder) -> None:
    """Upload blocks in parts, in one request, and in parts of which S3 refuses one, which ends the upload."""
    store, made = S3BlockStore(aws_client("s3", REGION), CHECKPOINTS, part_bytes=5 * MIB), bytes(16)
    names_ = tuple(map(block_name, chain(chain_root(made), range(16), 4)))
    index = Index(made, names_, (3 * MIB,) * len(names_), "kv/x")
    await store.keep(STREAM, index, lambda _: bytes(3 * MIB))
    await store.keep(STREAM, Index(made, names_[:1], (MIB,)), lambda _: bytes(MIB))
    with recorder.refusing(UploadPart="AccessDenied"):
        await _attempt(store.keep(STREAM, index, lambda _: bytes(3 * MIB)))
    await _attempt(store.index(made, STREAM))
    await _attempt(store.fetch(index, next(iter(plan_batches(index, lambda _: True)))))


def _model(recorder: Recorder) -> None:
    store = ModelStore(s3_client(REGION, 4), MODELS)
    with suppress(SynktiError):
        store.manifest(MODEL)
    store.sizes(MODEL)
    store.read(MODEL, "config.json", 0, 1, lambda _: None)
    with suppress(SynktiError), recorder.refusing(GetObject="AccessDenied"):
        store.read(MODEL, "config.json", 0, 1, lambda _: None)
