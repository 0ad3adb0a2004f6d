"""Implement the ports in memory: for scenarios on virtual time, and for the suite that the adapters pass, too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from node_agent.contract.addresses import node_address
from node_agent.contract.aws_events import InterruptionNotice
from node_agent.contract.drain_record import DrainRecord
from node_agent.contract.errors import StaleEpoch, StoreUnavailable
from node_agent.contract.open_streams import OpenStreams
from node_agent.contract.ownership import Ownership, moves_forward
from node_agent.contract.states import NodeState
from node_agent.contract.table_schema import NodeRecord, RecordMissing, StreamRecord, TimelineStep, renewed
from node_agent.contract.tags import DEADLINE_TAG, NODE_TAGS, NodeTags, decode_tags
from node_agent.core.kv.index import Batch, Index, blocks_key, index_key, parse_index
from node_agent.core.node.discovery_schedule import PAGE_NODES
from node_agent.core.node.status import TaggedNode
from node_agent.ports import Identity


class MemoryMetadata:
    """IMDS with answers that a test sets."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self.notice: InterruptionNotice | None = None
        self.rebalance_at: float | None = None
        self.is_terminating = False

    async def identity(self) -> Identity:
        """Return the identity that the constructor was given."""
        return self._identity

    async def interruption(self) -> InterruptionNotice | None:
        """Return `notice`: None until a test sets it."""
        return self.notice

    async def rebalance(self) -> float | None:
        """Return `rebalance_at`, in unix seconds: None until a test sets it."""
        return self.rebalance_at

    async def termination_requested(self) -> bool:
        """Return `is_terminating`: False until a test sets it."""
        return self.is_terminating


class MemoryScalingGroup:
    """A group, and the instances whose termination waits for them."""

    def __init__(self, waits_for: set[str]) -> None:
        self.waits_for = waits_for

    async def complete_termination(self, instance_id: str) -> bool:
        """End the wait for an instance. Returns False where the group does not wait for it, also the second time."""
        if instance_id not in self.waits_for:
            return False
        self.waits_for.remove(instance_id)
        return True


class MemoryInstances:
    """EC2 with running instances: id to private address; an unknown one cannot be tagged, as in EC2."""

    def __init__(self, addresses: dict[str, str], peer_port: int) -> None:
        self._addresses = addresses
        self._peer_port = peer_port
        self.tags: dict[str, dict[str, str]] = {}

    async def tag(self, instance_id: str, tags: NodeTags) -> None:
        """Set the tags that have a value; a deadline tag is removed where `tags` has none. Raises StoreUnavailable."""
        self._known(instance_id)
        current = self.tags.setdefault(instance_id, {})
        current.pop(DEADLINE_TAG, None)
        current.update(tags.encode())

    async def untag(self, instance_id: str) -> None:
        """Remove NODE_TAGS; the cluster's tag stays. Raises StoreUnavailable for an unknown instance."""
        self._known(instance_id)
        for key in NODE_TAGS:
            self.tags.get(instance_id, {}).pop(key, None)

    async def nodes(self, cluster: str, most_calls: int | None = None) -> list[TaggedNode]:
        """List the nodes of a cluster, in the order in which they were first tagged: PAGE_NODES of them a call."""
        found: list[TaggedNode] = []
        for instance_id, current in self.tags.items():
            tags = decode_tags(current)
            if tags is not None and tags.cluster == cluster:
                address = tags.address or node_address(f"{self._addresses.get(instance_id)}:{self._peer_port}")
                if address is not None:
                    found.append(
                        TaggedNode(
                            instance_id, address, tags.state, tags.public_key, tags.cluster_keys, tags.is_shut_out
                        )
                    )
        return found if most_calls is None else found[: most_calls * PAGE_NODES]

    def _known(self, instance_id: str) -> None:
        if instance_id not in self._addresses:
            raise StoreUnavailable(f"no such instance: {instance_id}")


class MemoryRecords:
    """The table, with its conditions."""

    def __init__(self) -> None:
        self.records: dict[str, NodeRecord] = {}
        self.drains: dict[tuple[str, int], DrainRecord] = {}

    async def begin(self, record: NodeRecord) -> None:
        """Write the record to `records`, in place of any other of the instance."""
        self.records[record.instance_id] = record

    async def advance(self, instance_id: str, incarnation: int, state: NodeState, step: TimelineStep) -> None:
        """Add a step once, and move the state if that is forward.

        Raises:
            RecordMissing: There is no record, or one of an older incarnation.
            StaleEpoch: A newer incarnation owns the record.
        """
        record = self.records.get(instance_id)
        if record is None or record.incarnation < incarnation:
            raise RecordMissing(f"there is no record of incarnation {incarnation}", record.timeline if record else {})
        if record.incarnation > incarnation:
            raise StaleEpoch(f"the record does not belong to incarnation {incarnation}")
        timeline = {step.key: step, **record.timeline}
        forward = max(record.state, state, key=lambda s: s.rank)
        self.records[instance_id] = replace(record, state=forward, timeline=timeline, expires_at=renewed(step.at))

    async def put_drain(self, record: DrainRecord) -> None:
        """Write the record of a drain to `drains`, by instance id and incarnation; the last write wins."""
        self.drains[record.instance_id, record.incarnation] = record


class MemoryCheckpoints:
    """The bucket and the records, with their condition. unavailable: as AWS sometimes is."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.records: dict[str, StreamRecord] = {}
        self.unavailable = False

    async def write(self, key: str, body: bytes, records: Sequence[StreamRecord]) -> int:
        """Write the object and the records that move no stream back. Returns how many; raises StoreUnavailable."""
        self._check()
        self.objects[key] = body
        written = 0
        for record in records:
            current = self.records.get(record.stream)
            if current is None or current.progress <= record.progress:
                self.records[record.stream] = record
                written += 1
        return written

    async def find(self, stream: str) -> StreamRecord | None:
        """Return the record of a stream, None where `write` wrote none. Raises StoreUnavailable."""
        self._check()
        return self.records.get(stream)

    async def read(self, record: StreamRecord) -> bytes | None:
        """Return the bytes that the record points at, None without the object. Raises StoreUnavailable."""
        self._check()
        body = self.objects.get(record.object_key)
        return None if body is None else body[record.start : record.start + record.length]

    def _check(self) -> None:
        if self.unavailable:
            raise StoreUnavailable("the checkpoints are not to be had")


class MemoryStreamRecords:
    """The records of open streams by instance id, and of ownership by stream. unavailable: as AWS sometimes is."""

    def __init__(self) -> None:
        self.open: dict[str, OpenStreams] = {}
        self.owned: dict[str, Ownership] = {}
        self.unavailable = False

    async def write_open(self, record: OpenStreams) -> None:
        """Write the record to `open`. Raises StaleEpoch where a newer incarnation has one, StoreUnavailable."""
        self._check()
        held = self.open.get(record.instance_id)
        if held is not None and held.incarnation > record.incarnation:
            raise StaleEpoch(f"the record belongs to incarnation {held.incarnation}, not to {record.incarnation}")
        if held is not None and held.incarnation == record.incarnation:
            deadline = held.deadline if record.deadline is None else record.deadline
            record = replace(record, deadline=deadline, ended_at=held.ended_at)
        self.open[record.instance_id] = record

    async def read_open(self, instance_id: str) -> OpenStreams | None:
        """Return the record of a node, None where `write_open` wrote none. Raises StoreUnavailable."""
        self._check()
        return self.open.get(instance_id)

    async def advance(self, changes: Sequence[Ownership]) -> int:
        """Write those that move forward to `owned`. Returns how many; raises StoreUnavailable."""
        self._check()
        written = [change for change in changes if moves_forward(self.owned.get(change.stream), change)]
        self.owned.update({change.stream: change for change in written})
        return len(written)

    async def find(self, stream: str) -> Ownership | None:
        """Return a stream's ownership, None where there is no record. Raises StoreUnavailable."""
        self._check()
        return self.owned.get(stream)

    def _check(self) -> None:
        if self.unavailable:
            raise StoreUnavailable("the records of streams cannot be reached")


class MemoryBlockStore:
    """Blocks and indexes by key."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    async def keep(self, stream: str, index: Index, read: Callable[[str], bytes | bytearray | None]) -> None:
        """Write a stream's blocks, then their index, which then names their object.

        Raises:
            StoreUnavailable: A block is missing, or has another size than the index has.
        """
        found = [read(name) for name in index.names]
        if [len(block or b"") for block in found] != list(index.sizes):
            raise StoreUnavailable("a block is not there any more")
        key = blocks_key(index.fingerprint, stream)
        self.objects[key] = b"".join(block for block in found if block is not None)
        self.objects[index_key(index.fingerprint, stream)] = replace(index, object_key=key).to_bytes()

    async def index(self, fingerprint: bytes, stream: str) -> Index | None:
        """Return the index that `keep` wrote, None where it wrote none. Raises ValueError where a test damaged it."""
        data = self.objects.get(index_key(fingerprint, stream))
        return None if data is None else parse_index(data)

    async def fetch(self, index: Index, batch: Batch) -> bytes:
        """Return the bytes of one batch. Raises StoreUnavailable where the index's object does not exist."""
        if index.object_key not in self.objects:
            raise StoreUnavailable("the blocks are gone")
        return self.objects[index.object_key][batch.start : batch.end]


class MemoryEngineSteps:
    """steps: the count that a test sets; None where there is no plug-in."""

    def __init__(self) -> None:
        self.steps: int | None = None

    def read(self) -> int | None:
        """Return `steps`."""
        return self.steps

    def forget(self) -> None:
        """Set `steps` to None, as without a plug-in."""
        self.steps = None
