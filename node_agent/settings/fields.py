"""The values of the agent's settings.

Each field is the environment variable SYNKTI_<FIELD>, where its docstring does not say otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from node_agent.core.common.address import Address, is_loopback
from node_agent.core.kv.vllm_args import kv_arguments
from node_agent.core.policy.request_policy import PolicySettings


@dataclass(frozen=True)
class EngineSettings:
    """How the engine is started and judged. Each field is SYNKTI_ENGINE_<FIELD>."""

    address: Address
    """SYNKTI_ENGINE_HOST, SYNKTI_ENGINE_PORT: vLLM's own address; loopback, because it checks no keys."""

    command: tuple[str, ...]
    """A JSON list of the engine's command and arguments; by default `vllm serve` with what continuation needs, and
    with SYNKTI_ENGINE_ARGS, a JSON list of further arguments."""

    start_s: float
    """How long the engine may take until it is healthy: a large model takes minutes to load."""

    restarts: int
    """How many times in a row the engine may end before the node retires."""

    stuck_s: float
    """How long the engine may make no progress, with requests in progress, until it is restarted. Longer where it
    compiles at requests, after its start; an engine of long steps gets more by itself."""

    socket: Path | None
    """Of the engine's own systemd unit, which then runs the command as its own user; None: it is a child process."""


@dataclass(frozen=True)
class AwsSettings:
    """What the node uses of AWS."""

    cluster_key_secret: str
    """The name in Secrets Manager under which the peers' common key lies; the key itself is in no variable."""

    cluster_key_read_s: float
    """The key is read again so often, with jitter by half, for a rotation."""

    table: str | None
    """SYNKTI_TABLE: the DynamoDB table; the cluster's own by default, none where it is empty."""

    checkpoints_bucket: str | None
    """The S3 bucket for journals of nodes that end; none disables checkpoints. It needs the table, too."""

    group: str | None
    """The Auto Scaling group that waits for this node's drain; none where nothing waits."""

    metadata_endpoint: str
    """AWS_EC2_METADATA_SERVICE_ENDPOINT, as botocore has it."""

    boot_spread_s: float
    """Nodes that boot together spread their first read of EC2's tags over that time."""


@dataclass(frozen=True)
class RequestLimits:
    """The bounds of what clients and peers may cost a node."""

    max_body_bytes: int
    """Of a client's request; images in chat messages are the largest."""

    max_bodies_bytes: int
    """Of all requests' bodies of more than 64 KiB that both doors hold together, until they are answered; beyond it a
    503 with Retry-After. A node's memory has to have about three times as much to spare."""

    max_connections: int
    """At each API, at once; beyond it a client may request the node's health only."""

    max_connections_per_address: int
    """Of one client's address, at each API; a balancer or proxy that hides its clients is one address."""

    max_streams: int
    """Clients' streams open on this node at once; more get a 429."""

    unread_s: float
    """How long a client may read nothing of what it is sent, before its connection is cut off. Its stream can be
    resumed for five minutes."""


@dataclass(frozen=True)
class ReplicationSettings:
    """How the journals of streams are replicated."""

    durability: str
    """peer: an event is sent to its client only once its record is at the replicas; none: no replicas and no wait."""

    replicas: int
    """How many peers hold a replica of each stream's journal."""

    replica_lag_s: float
    """How long an event may wait for a replica's ack. Longer where nodes share a CPU and may be slow but healthy."""

    max_replica_bytes: int
    """Of all replicas of journals that this node holds for others."""

    @property
    def factor(self) -> int:
        """How many replicas each stream's journal has; 0 without durability."""
        return self.replicas if self.durability == "peer" else 0


@dataclass(frozen=True)
class TlsSettings:
    """Which connections are encrypted. Each field is SYNKTI_TLS_<FIELD>, where its docstring does not say otherwise."""

    certificate: Path | None
    """A PEM file: the certificate of the client API, followed by intermediate ones. With it and its key the client API
    takes TLS only. Both files may be replaced at any time."""

    key: Path | None
    """A PEM file: the private key of the certificate, without a passphrase; readable by the agent's user only."""

    peers: bool
    """SYNKTI_PEER_TLS, on or off: connections between nodes are encrypted, and both sides checked by their keys. All
    nodes of a fleet need the same value."""


@dataclass(frozen=True)
class Settings:
    """All settings of one node."""

    cluster: str
    """The fleet this node belongs to; the tag SynktiCluster has the same value."""

    model_name: str
    """The model's name for clients."""

    model_dir: str
    """Where the engine finds the model's weights."""

    front: Address
    """SYNKTI_FRONT_HOST, SYNKTI_FRONT_PORT: the client API. The security group decides who reaches it."""

    admin: Address
    """SYNKTI_ADMIN_HOST, SYNKTI_ADMIN_PORT: metrics and drains, in plain HTTP; loopback by default. On another address
    the security group has to decide who reaches it."""

    peer: Address
    """SYNKTI_PEER_HOST, SYNKTI_PEER_PORT: the peer API, on the private network only."""

    advertise_address: str | None
    """host:port of the peer API where the private address does not reach it; becomes the tag SynktiAddress."""

    client_keys: Path | str | None
    """SYNKTI_API_KEYS: where the clients' keys lie. `off`: anybody may do anything, for a client API on loopback, and
    None here; `file:PATH` of mode 0600, a Path here; `secret:NAME` of Secrets Manager or its ARN, a text here."""

    audit_log: Path | None
    """The file of the audit log, which has a line for each answered request; None: there is none."""

    ui: bool
    """on or off: the node's page at /ui, with the snapshots that it shows; on by default."""

    allowed_origins: tuple[str, ...]
    """The origins whose pages may call this node from a browser (CORS), with commas between them, `*` for all; none by
    default."""

    state_dir: Path
    """The agent's own folder: the note of the engine's process group, the engine's log."""

    shared_dir: Path
    """The folder that agent and engine share, where they are different users; the agent's own by default."""

    runtime_dir: Path | None
    """RUNTIME_DIRECTORY, which systemd sets: a folder in memory for what the next agent of this machine starts with
    while AWS is away. None: nothing is kept."""

    log_level: str
    """DEBUG, INFO, WARNING, ERROR or CRITICAL: of the agent's own log."""

    log_format: str
    """text, or json: each line of the log is then an object with `at`, `level`, `logger` and `message`."""

    term_grace_s: float
    """The deadline that SIGTERM gives a drain. systemd's TimeoutStopSec has to be longer."""

    linger_s: float
    """How long a node stays at least after a request to drain, even with nothing left to do: it forwards what a load
    balancer still sends it. 0 where there is none."""

    min_silence_s: float
    """How long a peer may show no sign of life on a request, and the least inter-token timeout of a stream whose engine
    works. Longer where machines are slow; a slow engine needs none of it."""

    kv_max_bytes: int
    """Of the KV blocks that the engine keeps on the disk (in `kv` of the shared folder), so that a context can move;
    0: it keeps none."""

    tls: TlsSettings
    engine: EngineSettings
    aws: AwsSettings
    limits: RequestLimits
    policy: PolicySettings
    replication: ReplicationSettings

    @property
    def is_open_to_anybody(self) -> bool:
        """True where other machines reach the client API, and it requires no key."""
        return self.client_keys is None and not is_loopback(self.front.host)

    @property
    def kv_dir(self) -> Path:
        """The folder where the engine keeps KV blocks."""
        return self.shared_dir / "kv"

    @property
    def steps_dir(self) -> Path:
        """The folder where the plug-in counts the steps of the engine's core."""
        return self.shared_dir / "steps"

    @property
    def source_host(self) -> str | None:
        """The local address of connections to peers, None for any.

        It is where they reach this node, so that a network's rules can tell nodes apart.
        """
        return None if self.peer.host == "0.0.0.0" else self.peer.host  # noqa: S104 # it is compared

    @property
    def engine_argv(self) -> tuple[str, ...]:
        """The engine's command, with the arguments that make it keep its blocks."""
        return (*self.engine.command, *(kv_arguments(str(self.kv_dir), self.kv_max_bytes) if self.kv_max_bytes else ()))
