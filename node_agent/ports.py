"""What the agent needs of the outside, as protocols. Each has an adapter for the real thing and a twin in memory.

Every method may raise a TransientError of the contract, and nothing else that is expected.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from node_agent.contract.errors import TransientError
from node_agent.contract.notices import InterruptionNotice
from node_agent.contract.records import NodeRecord, TimelineStep
from node_agent.contract.states import NodeState
from node_agent.contract.tags import NodeTags
from node_agent.core.addresses import Address
from node_agent.core.fleet import TaggedNode
from node_agent.core.journal_wire import Message


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

    async def interruption(self) -> InterruptionNotice | None: ...

    async def rebalance(self) -> float | None:
        """When a rebalance recommendation was given, unix seconds; None where there is none."""
        ...

    async def told_to_go(self) -> bool:
        """Whether the Auto Scaling group wants this instance to end: a scale-in, an update, a replacement."""
        ...


class Instances(Protocol):
    """EC2: the tags of this instance, and the others that carry the cluster's."""

    async def tag(self, instance_id: str, tags: NodeTags) -> None: ...

    async def untag(self, instance_id: str) -> None: ...

    async def nodes(self, cluster: str) -> list[TaggedNode]: ...


class Records(Protocol):
    """The table: this node's record and its timeline."""

    async def begin(self, record: NodeRecord) -> None:
        """Write the record of a new incarnation, whatever an older one left."""
        ...

    async def advance(self, instance_id: str, incarnation: int, state: NodeState, step: TimelineStep) -> None:
        """Add a step once, and move the state forward where that is forward; StaleEpoch for an older incarnation."""
        ...


class ScalingGroup(Protocol):
    """The Auto Scaling group that keeps this instance."""

    async def let_go(self, instance_id: str) -> bool:
        """Say that the node has drained, so that the group waits no longer. False where it does not wait."""
        ...


class Secrets(Protocol):
    """Secrets Manager."""

    async def read(self, name: str) -> bytes: ...


class ExchangeLost(TransientError):
    """The other side did not answer, or not to the end.

    why: one word for metrics and reasons: refused, unreachable, reset, eof, silence, broken, too-large, handoff, ...
    """

    def __init__(self, why: str) -> None:
        super().__init__(f"the exchange was lost: {why}")
        self.why = why


class Response(Protocol):
    """A response that arrives. Raises ExchangeLost while it is read. Always `close()` it."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Mapping[bytes, bytes]: ...

    @property
    def is_event_stream(self) -> bool: ...

    async def read(self) -> bytes:
        """What arrived since the last read, b"" at the end."""
        ...

    async def read_all(self, max_bytes: int) -> bytes:
        """The whole body; a larger one is lost as too-large."""
        ...

    def allow_silence(self, seconds: float) -> None:
        """From now on, a silence of `seconds` loses the exchange."""
        ...

    def abort(self, why: str) -> None:
        """Break it off: a reader that waits gets ExchangeLost(why); the server sees its client go."""
        ...

    def close(self) -> None: ...


class Http(Protocol):
    """HTTP/1.1 requests to engines, peers and IMDS."""

    async def open(
        self,
        address: Address,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str],
        body: bytes = b"",
        silence_s: float,
    ) -> Response:
        """Send a request and wait for the head of its response. Raises ExchangeLost.

        silence_s: how long the other side may send nothing, now and, until `allow_silence`, later.
        """
        ...


class JournalLink(Protocol):
    """A connection to a peer's keeper (`core/journal_wire`), made in the background: what is sent before is held."""

    def send(self, message: bytes) -> None:
        """Send a message with the others of this moment. It may be lost: then `lost` is called."""
        ...

    def close(self) -> None: ...


class JournalLinks(Protocol):
    """Connections to keepers."""

    def connect(
        self, address: Address, received: Callable[[Message], None], lost: Callable[[str], None]
    ) -> JournalLink:
        """lost: called once, with a word for why, when the connection broke or could not be made."""
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
