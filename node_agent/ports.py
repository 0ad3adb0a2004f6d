"""What the agent needs of the outside, as protocols. Each has an adapter for the real thing and a twin in memory.

Every method may raise a TransientError of the contract, and nothing else that is expected.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from node_agent.contract.aws_events import InterruptionNotice
from node_agent.contract.drain_record import DrainRecord
from node_agent.contract.errors import TransientError
from node_agent.contract.states import NodeState
from node_agent.contract.table_schema import NodeRecord, StreamRecord, TimelineStep
from node_agent.contract.tags import NodeTags
from node_agent.core.common.address import Address
from node_agent.core.kv.index import Batch, Index
from node_agent.core.node.status import TaggedNode


@dataclass(frozen=True)
class Identity:
    """Which instance this is. private_address: its IPv4 address inside the VPC."""

    instance_id: str
    zone: str
    region: str
    instance_type: str
    private_address: str


class Metadata(Protocol):
    """IMDSv2."""

    async def identity(self) -> Identity: ...

    async def interruption(self) -> InterruptionNotice | None:
        """None where there is none. One that cannot be read is a notice all the same, its deadline is infinity."""
        ...

    async def rebalance(self) -> float | None:
        """When a rebalance recommendation was given, unix seconds, 0 where that cannot be read; None: there is none."""
        ...

    async def termination_requested(self) -> bool:
        """Whether the Auto Scaling group wants this instance to end: a scale-in, an update, a replacement."""
        ...


class Instances(Protocol):
    """EC2: the tags of this instance, and the others that carry the cluster's."""

    async def tag(self, instance_id: str, tags: NodeTags) -> None: ...

    async def untag(self, instance_id: str) -> None: ...

    async def nodes(self, cluster: str, most_calls: int | None = None) -> list[TaggedNode]:
        """Running nodes. most_calls: of EC2's API, each of which tells of a thousand; None for all nodes there are."""
        ...


class Records(Protocol):
    """The table: this node's record and its timeline."""

    async def begin(self, record: NodeRecord) -> None:
        """Write the record of a new incarnation, whatever an older one left."""
        ...

    async def advance(self, instance_id: str, incarnation: int, state: NodeState, step: TimelineStep) -> None:
        """Add a step once, and move the state forward where that is forward; either renews the record's life.

        Raises StaleEpoch where a newer incarnation owns the record, RecordMissing where it has to be begun anew.
        """
        ...

    async def keep_drain(self, record: DrainRecord) -> None:
        """Write what there is to tell of a drain; the newest word replaces the one before."""
        ...


class Checkpoints(Protocol):
    """The checkpoints bucket and the streams' records: journals whose nodes go."""

    async def write(self, key: str, body: bytes, records: Sequence[StreamRecord]) -> int:
        """Write the object, then the records; one that would move its stream back is left out. How many were written.

        Raises StoreUnavailable where the object, or any of the records, could not be written.
        """
        ...

    async def find(self, stream: str) -> StreamRecord | None: ...

    async def read(self, record: StreamRecord) -> bytes | None:
        """The bytes that the record speaks of; None where there is no such object any more."""
        ...


class BlockStore(Protocol):
    """KV blocks in the checkpoints bucket, a stream's together, with an index."""

    async def keep(self, stream: str, index: Index, read: Callable[[str], bytes | bytearray | None]) -> None:
        """Write a stream's blocks, then their index. read: a block's file by its name, called in a thread.

        Raises StoreUnavailable, also where a block is not there any more; then there is no index.
        """
        ...

    async def index(self, fingerprint: bytes, stream: str) -> Index | None: ...

    async def fetch(self, index: Index, batch: Batch) -> bytes:
        """The bytes of some of the blocks."""
        ...


class ScalingGroup(Protocol):
    """The Auto Scaling group that keeps this instance."""

    async def complete_termination(self, instance_id: str) -> bool:
        """Say that the node has drained, so that the group waits no longer. False where it does not wait."""
        ...


class Secrets(Protocol):
    """Secrets Manager."""

    async def read(self, name: str) -> bytes: ...


class ExchangeLost(TransientError):
    """The other side did not answer, or not to the end.

    why: in a word, or as `core/failure/report` writes it: refused, unreachable, reset, eof, silence, broken, too-large.
    passed_on: whether a peer says so of its engine; else it is of the exchange itself.
    """

    def __init__(self, why: str, *, passed_on: bool = False) -> None:
        super().__init__(f"the exchange was lost: {why}")
        self.why = why
        self.passed_on = passed_on


class Response(Protocol):
    """A request that was sent, and its response as it arrives. Always `close()` it.

    status, headers: known once `head` has returned; names of headers are in lower case.
    first_read_at, last_read_at: loop time of the first and of the last bytes received, 0 before any.
    reads: how many times bytes arrived, about once a token.
    """

    @property
    def first_read_at(self) -> float: ...

    @property
    def last_read_at(self) -> float: ...

    @property
    def reads(self) -> int: ...

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Mapping[bytes, bytes]: ...

    @property
    def is_event_stream(self) -> bool: ...

    async def head(self) -> None:
        """Wait for the response's head. Raises ExchangeLost."""
        ...

    async def read(self) -> bytes:
        """What arrived since the last read, b"" at the end. Raises ExchangeLost."""
        ...

    async def read_all(self, max_bytes: int) -> bytes:
        """The whole body; a larger one is lost as too-large. Raises ExchangeLost."""
        ...

    async def pipe(self, sink: Callable[[bytes], None]) -> None:
        """Give what arrives to `sink`, at once and until the end. Raises ExchangeLost, once the sink has all of it."""
        ...

    def pause(self, paused: bool) -> None:
        """Take nothing more for now, or go on; a pause is no silence."""
        ...

    def set_read_timeout(self, seconds: float) -> None:
        """From now on, a silence of `seconds` loses the exchange."""
        ...

    def end_within(self, seconds: float) -> None:
        """Nothing more is wanted of it: from now on `seconds` may pass until its end."""
        ...

    def abort(self, why: str) -> None:
        """Break it off: whoever waits gets ExchangeLost(why); the server sees its client go."""
        ...

    def close(self) -> None: ...


class Http(Protocol):
    """HTTP/1.1 requests to engines, peers and IMDS."""

    def request(
        self,
        address: Address,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str],
        body: bytes = b"",
        read_timeout_s: float,
        accept_timeout_s: float | None = None,
        keepalive_timeout_s: float | None = None,
        on_lost: Callable[[str], None] | None = None,
    ) -> Response:
        """Send a request.

        read_timeout_s: how long the other side may send nothing; `set_read_timeout` changes it.
        accept_timeout_s: how long until its first bytes, where it accepts requests at once (`ServerRequest.accept`).
        keepalive_timeout_s: how long it may send nothing at all, once it has announced keep-alives (SIGNS_HEADER of an
        interim response).
        on_lost: receives the reason, once, where the exchange is lost.
        """
        ...

    async def open(
        self,
        address: Address,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str],
        body: bytes = b"",
        read_timeout_s: float,
    ) -> Response:
        """Send a request with `request`, and wait for the head. Raises ExchangeLost."""
        ...


class ServerRequest(Protocol):
    """A request that came to a door, whole, and the way to answer it: nothing here waits.

    method: GET also for HEAD; path: decoded, without the query; target: as it was sent; headers: by lower case names;
    address: of the client, "" where it is not known.
    """

    @property
    def address(self) -> str: ...

    @property
    def method(self) -> str: ...

    @property
    def path(self) -> str: ...

    @property
    def target(self) -> str: ...

    @property
    def headers(self) -> Mapping[bytes, bytes]: ...

    @property
    def body(self) -> bytes: ...

    @property
    def is_gone(self) -> bool:
        """Whether the client has closed its connection: nobody is there to be answered."""
        ...

    @property
    def is_congested(self) -> bool:
        """Whether the client takes less than it is sent."""
        ...

    def when_gone(self, call: Callable[[], None]) -> None:
        """Hear of it when the client closes its connection before it has the answer; one at a time hears."""
        ...

    def when_congested(self, call: Callable[[bool], None]) -> None:
        """Hear when the client takes less than it is sent (True), and when it has caught up (False)."""
        ...

    def forget_body(self) -> None:
        """Nobody looks at the body again: it is empty from now on, and does not take memory until the answer's end."""
        ...

    def add_headers(self, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Headers of the answer, whoever gives it; to be called before it begins. The last of one name counts."""
        ...

    def accept(self, more: Sequence[tuple[bytes, bytes]] = ()) -> None:
        """Say that the request has come and that its answer will take its time; later again, as a sign of life.

        Nothing happens once the answer has begun. more: headers.
        """
        ...

    def respond(
        self,
        status: int,
        body: bytes,
        content_type: bytes = b"application/json",
        more: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        """Answer in one piece. content_type: b"" for none; more: headers."""
        ...

    def begin(self, status: int, content_type: bytes, more: Sequence[tuple[bytes, bytes]] = ()) -> None:
        """The head of an answer that comes in pieces."""
        ...

    def write(self, data: bytes) -> None: ...

    def end(self, last: bytes = b"") -> None: ...


class Datagrams(Protocol):
    """Messages to peers that may be lost, repeated or come late."""

    def send(self, to: Address, data: bytes) -> None: ...


class ReplicaLink(Protocol):
    """A connection to a peer's keeper (`core/replication/protocol`), made in the background: what is sent before is
    held."""

    @property
    def is_late(self) -> bool:
        """Whether the keeper owes an acknowledgement for too long."""
        ...

    def send(self, message: bytes, receipt: object = None) -> None:
        """Send a message with the others of this moment. It may be lost: then `lost` is called.

        receipt: given back once the keeper has dealt with the message.
        """
        ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class AlternateProtocol:
    """Connections to a door that begin with `preface` speak no HTTP: `take_over` makes their protocol."""

    preface: bytes
    take_over: Callable[[asyncio.Transport], asyncio.Protocol]


class LinkListener(Protocol):
    """Who hears of a link."""

    def acknowledged(self, receipts: Sequence[Any]) -> None:
        """The keeper has dealt with these messages; what it refused of them was said before."""
        ...

    def overdue(self, receipts: Sequence[Any]) -> None:
        """The keeper has not dealt with these messages for too long; once for each."""
        ...

    def refused(self, handle: int, why: str) -> None:
        """It would not take a message of this stream."""
        ...

    def lost(self, why: str) -> None:
        """Once: the connection broke, or could not be made."""
        ...


class ReplicaLinks(Protocol):
    """Connections to keepers."""

    def connect(self, address: Address, owner: LinkListener) -> ReplicaLink: ...


class EngineSteps(Protocol):
    """The steps of the engine's core, where the plug-in counts them."""

    def read(self) -> int | None:
        """How many there were, of all cores together; None where nobody counts."""
        ...

    def forget(self) -> None:
        """The engine has ended, or is about to; the next one begins anew."""
        ...


class EngineGroup(Protocol):
    """The engine's process group."""

    async def start(self) -> None:
        """End what an earlier agent left, and start. Raises OSError where the command cannot be run."""
        ...

    async def wait(self) -> int:
        """Until the engine's first process ends; its exit status (negative: the signal)."""
        ...

    def note_shared_memory(self) -> None:
        """Remember what the engine has mapped now: after a SIGKILL nobody can be asked."""
        ...

    async def stop(self, grace_s: float) -> None:
        """SIGTERM to the group, SIGKILL after `grace_s` seconds, until none of it is left."""
        ...
