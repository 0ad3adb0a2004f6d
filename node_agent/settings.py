"""The agent's settings: read once, from environment variables; all faults are reported together."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv6Address
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from node_agent.contract.addresses import read_node_address
from node_agent.contract.errors import ConfigurationError
from node_agent.contract.names import (
    DEFAULT_CLUSTER,
    ENGINE_PORT,
    FRONT_DOOR_PORT,
    PEER_DOOR_PORT,
    cluster_key_secret_name,
    is_cluster_name,
    is_origin,
    table_name,
)
from node_agent.core.common.address import Address
from node_agent.core.continuation.timeouts import MIN_INTER_TOKEN_S
from node_agent.core.engine.liveness import STUCK_S
from node_agent.core.kv.vllm_args import kv_arguments
from node_agent.core.node.discovery_schedule import FIRST_READ_WITHIN_S
from node_agent.core.replication.ack_batches import LAG_S
from node_agent.core.replication.replica_store import MAX_BYTES
from node_agent.core.replication.replicated_log import MAX_REPLICAS, REPLICATION_FACTOR

IMDS_ENDPOINT = "http://169.254.169.254"
MAX_MODEL_BYTES = 128
"""As `core/membership/wire` has it."""

_DIGITS = re.compile(r"[0-9]{1,18}")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,253}[A-Za-z0-9])?")
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_LONGEST = 4_096
_YEAR_S = 366 * 24 * 3600.0

_T = TypeVar("_T")


@dataclass(frozen=True)
class Settings:
    """Each field is the environment variable SYNKTI_<FIELD>, where its docstring does not say otherwise."""

    cluster: str
    """The fleet this node belongs to; the tag SynktiCluster has the same value."""

    model_name: str
    """The model's name for clients."""

    model_dir: str
    """Where the engine finds the model's weights."""

    front: Address
    """SYNKTI_FRONT_HOST, SYNKTI_FRONT_PORT: the client API. The security group decides who reaches it."""

    peer: Address
    """SYNKTI_PEER_HOST, SYNKTI_PEER_PORT: the peer API, on the private network only."""

    engine: Address
    """SYNKTI_ENGINE_HOST, SYNKTI_ENGINE_PORT: vLLM's own address; loopback, because it checks no keys."""

    engine_command: tuple[str, ...]
    """A JSON list of the engine's command and arguments; by default `vllm serve` with what continuation needs, and
    with SYNKTI_ENGINE_ARGS, a JSON list of further arguments."""

    advertise_address: str | None
    """host:port of the peer API where the private address does not reach it; becomes the tag SynktiAddress."""

    state_dir: Path
    """The agent's own folder: the note of the engine's process group, the engine's log."""

    runtime_dir: Path | None
    """RUNTIME_DIRECTORY, which systemd sets: a folder in memory for what the next agent of this machine starts with
    while AWS is away. None: nothing is kept."""

    cluster_key_secret: str
    """The name in Secrets Manager under which the peers' common key lies; the key itself is in no variable."""

    table: str | None
    """SYNKTI_TABLE: the DynamoDB table; the cluster's own by default, none where it is empty."""

    checkpoints_bucket: str | None
    """The S3 bucket for journals of nodes that end; none disables checkpoints. It needs the table, too."""

    group: str | None
    """The Auto Scaling group that waits for this node's drain; none where nothing waits."""

    log_level: str
    """DEBUG, INFO, WARNING, ERROR or CRITICAL: of the agent's own log."""

    metadata_endpoint: str
    """AWS_EC2_METADATA_SERVICE_ENDPOINT, as botocore has it."""

    engine_start_s: float
    """How long the engine may take until it is healthy: a large model takes minutes to load."""

    engine_restarts: int
    """How many times in a row the engine may end before the node retires."""

    boot_spread_s: float
    """Nodes that boot together spread their first read of EC2's tags over that time."""

    term_grace_s: float
    """The deadline that SIGTERM gives a drain. systemd's TimeoutStopSec has to be longer."""

    linger_s: float
    """How long a node stays at least after a request to drain, even with nothing left to do: it forwards what a load
    balancer still sends it. 0 where there is none."""

    engine_stuck_s: float
    """How long the engine may make no progress, with requests in progress, until it is restarted. Longer where it
    compiles at requests, after its start; an engine of long steps gets more by itself."""

    min_silence_s: float
    """How long a peer may show no sign of life on a request, and the least inter-token timeout of a stream whose engine
    works. Longer where machines are slow; a slow engine needs none of it."""

    max_body_bytes: int
    """Of a client's request; images in chat messages are the largest."""

    max_bodies_bytes: int
    """Of all requests' bodies of more than 64 KiB that both doors hold together, until they are answered; beyond it a
    503 with Retry-After. A node's memory has to have about three times as much to spare."""

    max_connections: int
    """At each API, at once; beyond it a client may request the node's health only."""

    max_connections_per_address: int
    """Of one client's address, at each API; a balancer or proxy that hides its clients is one address."""

    unread_s: float
    """How long a client may read nothing of what it is sent, before its connection is cut off. Its stream can be
    resumed for five minutes."""
    allowed_origins: tuple[str, ...]
    """The origins whose pages may call this node from a browser (CORS), with commas between them, `*` for all; none by
    default."""

    max_streams: int
    """Clients' streams open on this node at once; more get a 429."""

    durability: str
    """peer: an event is sent to its client only once its record is at the replicas; none: no replicas and no wait."""

    keepers: int
    """How many peers hold a replica of each stream's journal."""

    keeper_lag_s: float
    """How long an event may wait for a replica's ack. Longer where nodes share a CPU and may be slow but healthy."""

    max_kept_bytes: int
    """Of all replicas of journals that this node holds for others."""

    kv_max_bytes: int
    """Of the KV blocks that the engine keeps on the disk (in `kv` of the state's folder), so that a context can move;
    0: it keeps none."""

    @property
    def kv_dir(self) -> Path:
        """The folder where the engine keeps KV blocks."""
        return self.state_dir / "kv"

    @property
    def steps_dir(self) -> Path:
        """The folder where the plug-in counts the steps of the engine's core."""
        return self.state_dir / "steps"

    @property
    def source_host(self) -> str | None:
        """The local address of connections to peers, None for any.

        It is where they reach this node, so that a network's rules can tell nodes apart.
        """
        return None if self.peer.host == "0.0.0.0" else self.peer.host  # noqa: S104 # it is compared

    @property
    def replication_factor(self) -> int:
        """How many replicas each stream's journal has; 0 without durability."""
        return self.keepers if self.durability == "peer" else 0

    @property
    def engine_argv(self) -> tuple[str, ...]:
        """The engine's command, with the arguments that make it keep its blocks."""
        return (*self.engine_command, *(kv_arguments(str(self.kv_dir), self.kv_max_bytes) if self.kv_max_bytes else ()))


def _default_engine_command(model_dir: str, model_name: str, engine: Address) -> tuple[str, ...]:
    """Build `vllm serve` on its own address, with request ids and load figures."""
    return (
        "vllm", "serve", model_dir, "--served-model-name", model_name,
        "--host", engine.host, "--port", str(engine.port),
        "--enable-request-id-headers", "--enable-server-load-tracking",
    )  # fmt: skip


class _Reader:
    """Reads variables, and collects their faults until all were read."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.faults: list[str] = []

    def get(self, name: str, default: _T, parse: Callable[[str], _T]) -> _T:
        text = self._environ.get(name)
        if text is None or (text == "" and default is not None):
            return default
        try:
            return parse(text)
        except (ValueError, RecursionError) as error:
            self.faults.append(f"{name}={text!r}: {error}")
            return default

    def required(self, name: str, parse: Callable[[str], str]) -> str:
        if not self._environ.get(name, ""):
            self.faults.append(f"{name} is not set")
        return self.get(name, "", parse)

    def named(self, name: str, default: str) -> str:
        """Read a name, or another text of one line."""
        return self.get(name, default, _line)

    def maybe(self, name: str, default: str = "") -> str | None:
        """Read a text; None where it is set and empty, which differs from not set."""
        if self._environ.get(name) == "":
            return None
        return self.named(name, default) or None

    def address(self, door: str, host: str, port: int) -> Address:
        return Address(self.get(f"SYNKTI_{door}_HOST", host, _host), self.get(f"SYNKTI_{door}_PORT", port, _port))


def from_environ(environ: Mapping[str, str]) -> Settings:
    """Read the settings. Raises ConfigurationError with every fault there is."""
    read = _Reader(environ)
    cluster = read.get("SYNKTI_CLUSTER", DEFAULT_CLUSTER, _cluster)
    model_name, model_dir = read.required("SYNKTI_MODEL_NAME", _model), read.required("SYNKTI_MODEL_DIR", _line)
    engine = read.address("ENGINE", "127.0.0.1", ENGINE_PORT)
    no_more: tuple[str, ...] = ()
    further = read.get("SYNKTI_ENGINE_ARGS", no_more, _arguments)
    settings = Settings(
        cluster=cluster,
        model_name=model_name,
        model_dir=model_dir,
        front=read.address("FRONT", "0.0.0.0", FRONT_DOOR_PORT),  # noqa: S104 # the security group closes it
        peer=read.address("PEER", "0.0.0.0", PEER_DOOR_PORT),  # noqa: S104 # the security group closes it
        engine=engine,
        engine_command=read.get(
            "SYNKTI_ENGINE_COMMAND",
            (*_default_engine_command(model_dir, model_name, engine), *further),
            _command,
        ),
        advertise_address=read.get("SYNKTI_ADVERTISE_ADDRESS", None, _node_address),
        state_dir=Path(read.named("SYNKTI_STATE_DIR", "/var/lib/synkti")),
        runtime_dir=read.get("RUNTIME_DIRECTORY", None, lambda text: Path(_line(text)) if text else None),
        cluster_key_secret=read.named("SYNKTI_CLUSTER_KEY_SECRET", cluster_key_secret_name(cluster)),
        table=read.maybe("SYNKTI_TABLE", table_name(cluster)),
        checkpoints_bucket=read.maybe("SYNKTI_CHECKPOINTS_BUCKET"),
        group=read.maybe("SYNKTI_GROUP"),
        log_level=read.get("SYNKTI_LOG_LEVEL", "INFO", _level),
        metadata_endpoint=read.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", IMDS_ENDPOINT, _endpoint),
        engine_start_s=read.get("SYNKTI_ENGINE_START_S", 900.0, _positive),
        engine_restarts=read.get("SYNKTI_ENGINE_RESTARTS", 5, _size),
        boot_spread_s=read.get("SYNKTI_BOOT_SPREAD_S", FIRST_READ_WITHIN_S, _positive),
        term_grace_s=read.get("SYNKTI_TERM_GRACE_S", 90.0, _positive),
        linger_s=read.get("SYNKTI_LINGER_S", 0.0, _seconds),
        engine_stuck_s=read.get("SYNKTI_ENGINE_STUCK_S", STUCK_S, _positive),
        min_silence_s=read.get("SYNKTI_MIN_SILENCE_S", MIN_INTER_TOKEN_S, _positive),
        max_body_bytes=read.get("SYNKTI_MAX_BODY_BYTES", 16 * 1024 * 1024, _count),
        max_bodies_bytes=read.get("SYNKTI_MAX_BODIES_BYTES", 256 * 1024 * 1024, _count),
        max_connections=read.get("SYNKTI_MAX_CONNECTIONS", 8_192, _count),
        max_connections_per_address=read.get("SYNKTI_MAX_CONNECTIONS_PER_ADDRESS", 4_096, _count),
        unread_s=read.get("SYNKTI_UNREAD_S", 120.0, _positive),
        allowed_origins=read.get("SYNKTI_ALLOWED_ORIGINS", no_more, _origins),
        max_streams=read.get("SYNKTI_MAX_STREAMS", 2_000, _count),
        durability=read.get("SYNKTI_DURABILITY", "peer", _durability),
        keepers=read.get("SYNKTI_KEEPERS", REPLICATION_FACTOR, _copies),
        keeper_lag_s=read.get("SYNKTI_KEEPER_LAG_S", LAG_S, _positive),
        max_kept_bytes=read.get("SYNKTI_MAX_KEPT_BYTES", MAX_BYTES, _size),
        kv_max_bytes=read.get("SYNKTI_KV_MAX_BYTES", 0, _size),
    )
    if read.faults:
        raise ConfigurationError(read.faults)
    return settings


def _cluster(text: str) -> str:
    if not is_cluster_name(text):
        raise ValueError("2-20 lower case letters, digits and hyphens, beginning with a letter")
    return text


def _port(text: str) -> int:
    if not _DIGITS.fullmatch(text) or not 0 < int(text) < 65536:
        raise ValueError("a port is a number from 1 to 65535")
    return int(text)


def _host(text: str) -> str:
    """Parse a listener's or the engine's host: an IPv4 address, or a name that the host resolves (localhost)."""
    if not _HOST.fullmatch(text):
        raise ValueError("an IPv4 address or a host's name")
    return text


def _node_address(text: str) -> str | None:
    """Parse the address to which peers send datagrams; no name, and not IPv6."""
    if not text:
        return None
    read_node_address(text)
    return text


def _endpoint(text: str) -> str:
    parts = urlsplit(text)
    host = parts.hostname or ""
    if parts.scheme != "http" or parts.path.strip("/") or not (":" in host or _HOST.fullmatch(host)):
        raise ValueError("http://host[:port]")
    if ":" in host:  # EC2 has an IPv6 one, too
        IPv6Address(host)
    if parts.port is not None:  # reading it raises ValueError where it is none
        _port(str(parts.port))
    return text


def _level(text: str) -> str:
    if text not in _LEVELS:
        raise ValueError(f"one of {', '.join(_LEVELS)}")
    return text


def _line(text: str) -> str:
    if not text.isprintable() or len(text) > _LONGEST:
        raise ValueError(f"a text of one line, no longer than {_LONGEST} characters")
    return text


def _model(text: str) -> str:
    if len(_line(text).encode()) > MAX_MODEL_BYTES:
        raise ValueError(f"no longer than {MAX_MODEL_BYTES} bytes: it is in every message between nodes")
    return text


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value <= _YEAR_S:
        raise ValueError("must be more than 0, and not more than a year")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value <= _YEAR_S:
        raise ValueError("must be 0 or more, and not more than a year")
    return value


def _size(text: str) -> int:
    if not _DIGITS.fullmatch(text):
        raise ValueError("must be a whole number, and not negative")
    return int(text)


def _count(text: str) -> int:
    value = _size(text)
    if value < 1:
        raise ValueError("must be 1 or more")
    return value


def _durability(text: str) -> str:
    if text not in ("peer", "none"):
        raise ValueError("peer or none")
    return text


def _copies(text: str) -> int:
    value = _size(text)
    if not 1 <= value < MAX_REPLICAS:
        raise ValueError(f"from 1 to {MAX_REPLICAS - 1}")
    return value


def _arguments(text: str) -> tuple[str, ...]:
    value = json.loads(text)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError("must be a JSON list of texts")
    return tuple(value)


def _origins(text: str) -> tuple[str, ...]:
    origins = tuple(filter(None, map(str.strip, text.split(","))))
    if wrong := [origin for origin in origins if not is_origin(origin)]:
        raise ValueError(f"{wrong[0]!r} is no origin: one looks like https://chat.example.com")
    return origins


def _command(text: str) -> tuple[str, ...]:
    value = _arguments(text)
    if not value:
        raise ValueError("must not be empty: the command comes first")
    return value
