"""Connect a node to everything outside it: metadata, EC2, the table, the buckets, the cluster's key, clients' keys.

An agent starts also while AWS is away: it continues with the identity and the key that an earlier agent of this machine
stored, and otherwise waits.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import TypeVar

from node_agent.adapters.audit_file import AuditFile
from node_agent.adapters.auto_scaling import AutoScaling
from node_agent.adapters.aws import aws_client
from node_agent.adapters.block_store import MAX_CONCURRENCY as BLOCK_CONCURRENCY
from node_agent.adapters.block_store import S3BlockStore
from node_agent.adapters.checkpoints import MAX_CONCURRENCY as CHECKPOINT_CONCURRENCY
from node_agent.adapters.checkpoints import AwsCheckpoints
from node_agent.adapters.dynamodb import DynamoRecords
from node_agent.adapters.ec2 import Ec2
from node_agent.adapters.http import HttpClient
from node_agent.adapters.imds import Imds
from node_agent.adapters.key_stores import FileKeyStore, SecretKeyStore
from node_agent.adapters.node_key import NodeKey
from node_agent.adapters.remembered import Remembered
from node_agent.adapters.secrets import SecretsManager
from node_agent.adapters.stream_records import MAX_CONCURRENCY as STREAM_CONCURRENCY
from node_agent.adapters.stream_records import DynamoStreamRecords
from node_agent.contract.errors import ConfigurationError, StoreUnavailable, TransientError
from node_agent.core.access.key_document import parse_key_document
from node_agent.core.common.backoff import Backoff
from node_agent.core.common.cluster_keys import parse_cluster_keys
from node_agent.ports import (
    AuditLog,
    BlockStore,
    Checkpoints,
    Identity,
    Instances,
    KeyStore,
    Metadata,
    Records,
    ScalingGroup,
    Secrets,
    StreamRecords,
)
from node_agent.settings import Settings

_START_BACKOFF = Backoff(first_s=0.5, max_s=8.0)
_jitter_rng = Random()  # noqa: S311 # of waits before there is an agent
_REMEMBERED_AFTER_S = 5.0
"""How long a start waits for AWS where an earlier agent's answer would do."""

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


@dataclass(frozen=True)
class Dependencies:
    """The node's connections to the outside, made before anything is started.

    records, stream_records, group: None where there is no table, no Auto Scaling group that waits; checkpoints, blocks:
    no bucket. key: the secret with the cluster's keys; node_key: this node's own; secrets: where that secret is read
    again, None where it is fixed; remember_key: stores it for the next agent; client_keys: None where keys are off;
    audit_log: where it is off.
    """

    identity: Identity
    metadata: Metadata
    instances: Instances
    records: Records | None
    key: bytes
    group: ScalingGroup | None = None
    checkpoints: Checkpoints | None = None
    blocks: BlockStore | None = None
    stream_records: StreamRecords | None = None
    node_key: NodeKey = field(default_factory=NodeKey.generate)
    secrets: Secrets | None = None
    remember_key: Callable[[bytes], None] = lambda document: None
    client_keys: KeyStore | None = None
    audit_log: AuditLog | None = None


async def connect(settings: Settings, client: HttpClient) -> Dependencies:
    """Connect to what this node depends on; wait until the identity and the key can be read, however long it takes."""
    aws = settings.aws
    metadata = Imds(aws.metadata_endpoint, client)
    remembered = Remembered(settings.runtime_dir)
    identity = await _retry_transient(metadata.identity, remembered.identity())
    remembered.keep_identity(identity)
    store = SecretsManager(aws_client("secretsmanager", identity.region))
    key = await _retry_transient(partial(_read_keys, store, aws.cluster_key_secret), _usable(remembered.key()))
    remembered.keep_key(key)
    node_key = remembered.node_key() or NodeKey.generate()
    remembered.keep_node_key(node_key)
    instances = Ec2(aws_client("ec2", identity.region), settings.peer.port)
    records = DynamoRecords(aws_client("dynamodb", identity.region), aws.table) if aws.table else None
    group = AutoScaling(aws_client("autoscaling", identity.region), aws.group) if aws.group else None
    checkpoints, blocks = _checkpoints(settings, identity.region), _blocks(settings, identity.region)
    streams = _stream_records(settings, identity.region)
    keys = _client_keys(settings, store, remembered)
    audit = AuditFile(settings.audit_log) if settings.audit_log is not None else None
    return Dependencies(
        identity, metadata, instances, records, key, group, checkpoints, blocks, streams, node_key, store,
        remembered.keep_key, keys, audit,
    )  # fmt: skip


def _usable(document: bytes | None) -> bytes | None:
    """Return the stored secret; None where it has no usable key, or none is stored."""
    try:
        parse_cluster_keys(document or b"")
    except ValueError:
        return None
    return document


async def _read_keys(secrets: Secrets, name: str) -> bytes:
    """Return the secret with the cluster's keys. Raises StoreUnavailable, also where it has no usable key."""
    document = await secrets.read(name)
    try:
        parse_cluster_keys(document)
    except ValueError as error:
        raise StoreUnavailable(f"the secret {name}: {error}") from error
    return document


def _client_keys(settings: Settings, secrets: SecretsManager, remembered: Remembered) -> KeyStore | None:
    """Return where the clients' keys are read from. Raises ConfigurationError for a file that is not usable now."""
    where = settings.client_keys
    if where is None:
        return None
    if isinstance(where, str):
        return SecretKeyStore(secrets, where, remembered)
    store = FileKeyStore(where)
    try:
        parse_key_document(store.read_now())
    except StoreUnavailable as error:
        raise ConfigurationError([f"SYNKTI_API_KEYS: {error}"]) from error
    except ValueError as error:
        raise ConfigurationError([f"SYNKTI_API_KEYS: {where}: {error}; `synkti keys --file` writes one"]) from error
    return store


def _stream_records(settings: Settings, region: str) -> StreamRecords | None:
    if settings.aws.table is None:
        return None
    return DynamoStreamRecords(aws_client("dynamodb", region, STREAM_CONCURRENCY), settings.aws.table)


def _blocks(settings: Settings, region: str) -> BlockStore | None:
    if settings.aws.checkpoints_bucket is None or not settings.kv_max_bytes:
        return None
    return S3BlockStore(aws_client("s3", region, BLOCK_CONCURRENCY), settings.aws.checkpoints_bucket)


def _checkpoints(settings: Settings, region: str) -> Checkpoints | None:
    if settings.aws.checkpoints_bucket is None or settings.aws.table is None:
        return None
    s3, dynamodb = (aws_client(service, region, CHECKPOINT_CONCURRENCY) for service in ("s3", "dynamodb"))
    return AwsCheckpoints(s3, settings.aws.checkpoints_bucket, dynamodb, settings.aws.table)


async def _retry_transient(ask: Callable[[], Awaitable[_T]], remembered: _T | None) -> _T:
    """Call `ask` until it succeeds; return its result, or what an earlier agent of this machine stored."""
    # It never gives up: an agent that ends because AWS is away is started again by systemd, and after some times the
    # instance is given back, although another instance could do no better.
    for attempt in itertools.count(1):
        try:
            async with asyncio.timeout(None if remembered is None else _REMEMBERED_AFTER_S):
                return await ask()
        except (TransientError, TimeoutError) as error:
            if remembered is not None:
                _log.warning("%s; continuing with what the last agent stored", str(error) or "AWS is slow")
                return remembered
            wait_s = _START_BACKOFF.wait_s(attempt, _jitter_rng.random()) or 0.0
            _log.warning("%s; trying again in %.1f s", error, wait_s)
            await asyncio.sleep(wait_s)
    raise AssertionError("it counts for ever")
