"""Implement the ports in memory: for scenarios on virtual time, and for the suite that the adapters pass, too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

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


class MemoryPeerKeys:
    """The public keys of a fleet's nodes, by their ids; a test adds them, and shuts nodes out by removing them."""

    def __init__(self, keys: dict[str, str] | None = None) -> None:
        self.keys = {} if keys is None else keys

    def public_key(self, node_id: str) -> str | None:
        """Return the node's key; None where there is none."""
        return self.keys.get(node_id)

    def node_of(self, public_key: str) -> str | None:
        """Return the node with this key; None where there is none."""
        return next((node for node, key in self.keys.items() if key == public_key), None)

    def shut_out(self, node_id: str) -> None:
        """Remove a node's key."""
        del self.keys[node_id]


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


class MemorySecrets:
    """Secrets Manager with the values that the constructor is given, by name."""

    def __init__(self, values: dict[str, bytes]) -> None:
        self._values = values

    async def read(self, name: str) -> bytes:
        """Return the value of a secret. Raises StoreUnavailable for an unknown name."""
        if name not in self._values:
            raise StoreUnavailable(f"no such secret: {name}")
        return self._values[name]


@dataclass(eq=False)
class MemoryRequest:
    """A client's request that stores its response. status: 0 before a response."""

    method: str = "GET"
    target: str = "/"
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""
    address: str = "192.0.2.1"
    peer: str = ""
    status: int = 0
    content_type: bytes = b""
    response_headers: dict[bytes, bytes] = field(default_factory=dict)
    sent: list[bytes] = field(default_factory=list)
    accepted: list[dict[bytes, bytes]] = field(default_factory=list)
    is_ended: bool = False
    is_gone: bool = False
    is_congested: bool = False
    _gone: Callable[[], None] | None = None
    _congested: Callable[[bool], None] | None = None

    @property
    def path(self) -> str:
        """The target without its query; it is not percent-decoded."""
        return self.target.partition("?")[0]

    @property
    def answer(self) -> bytes:
        """All bytes sent after the head."""
        return b"".join(self.sent)

    def when_gone(self, call: Callable[[], None]) -> None:
        """Set the callback of `disconnect`; where the client is gone already, it is not called, unlike the port's."""
        self._gone = call

    def when_congested(self, call: Callable[[bool], None]) -> None:
        """Set the callback of `set_congested`; it is called at the next change, never at once, unlike the port's."""
        self._congested = call

    def disconnect(self) -> None:
        """Close the client's connection."""
        self.is_gone = True
        if self._gone is not None:
            self._gone()

    def set_congested(self, is_congested: bool) -> None:
        """Set whether the client reads too slowly."""
        self.is_congested = is_congested
        if self._congested is not None:
            self._congested(is_congested)

    def forget_body(self) -> None:
        """Set `body` to b""."""
        self.body = b""

    def add_headers(self, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Add headers to `response_headers`, in place of earlier ones of the same names."""
        self.response_headers |= dict(headers)

    def accept(self, more: Sequence[tuple[bytes, bytes]] = ()) -> None:
        """Append the interim response's headers to `accepted`; nothing happens once the response has begun."""
        if not self.status:
            self.accepted.append(dict(more))

    def respond(
        self,
        status: int,
        body: bytes,
        content_type: bytes = b"application/json",
        more: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        """Store the whole response. Raises RuntimeError for a second one."""
        self.begin(status, content_type, more)
        self.end(body)

    def begin(self, status: int, content_type: bytes, more: Sequence[tuple[bytes, bytes]] = ()) -> None:
        """Store the head of the response. Raises RuntimeError for a second one."""
        if self.status:
            raise RuntimeError("a request is answered once")
        self.status, self.content_type, self.response_headers = (
            status,
            content_type,
            {**self.response_headers, **dict(more)},
        )

    def write(self, data: bytes) -> None:
        """Append a part of the body to `sent`; an empty one is left out, as it would end a chunked body."""
        if data:
            self.sent.append(data)

    def end(self, last: bytes = b"") -> None:
        """Append the last part, and set `is_ended`."""
        self.write(last)
        self.is_ended = True


class MemoryKeyStore:
    """A key document that a test changes. kept: what was kept for the next agent; is_away: whether reads fail."""

    interval_s = 15.0

    def __init__(self, document: bytes, kept: bytes | None = None) -> None:
        self.document = document
        self.kept = kept
        self.is_away = False

    async def read(self) -> bytes:
        """Return `document`. Raises StoreUnavailable while `is_away`."""
        if self.is_away:
            raise StoreUnavailable("the secret cannot be read")
        return self.document

    def remembered(self) -> bytes | None:
        """Return `kept`."""
        return self.kept

    def keep(self, document: bytes) -> None:
        """Set `kept`."""
        self.kept = document


class MemoryAuditLog:
    """An audit log in `lines`."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []

    async def write(self, lines: bytes) -> None:
        """Append the lines to `lines`."""
        self.lines += lines.splitlines()
