"""Read the agent's settings from environment variables, with their defaults; all faults are reported together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

from node_agent.contract.errors import ConfigurationError
from node_agent.contract.names import (
    ADMIN_PORT,
    DEFAULT_CLUSTER,
    ENGINE_PORT,
    FRONT_DOOR_PORT,
    PEER_DOOR_PORT,
    cluster_key_secret_name,
    table_name,
)
from node_agent.core.common.address import Address
from node_agent.core.continuation.timeouts import MIN_INTER_TOKEN_S
from node_agent.core.engine.liveness import STUCK_S
from node_agent.core.engine.polled_paths import access_log_arguments
from node_agent.core.node.discovery_schedule import FIRST_READ_WITHIN_S
from node_agent.core.policy.bounds import RequestBounds
from node_agent.core.policy.cache_salt import SaltMode
from node_agent.core.policy.media import NO_DOMAIN
from node_agent.core.policy.request_policy import PolicySettings
from node_agent.core.replication.ack_batches import LAG_S
from node_agent.core.replication.replica_store import MAX_BYTES
from node_agent.core.replication.replicated_log import REPLICATION_FACTOR
from node_agent.settings import parsers as parse
from node_agent.settings.environ_reader import EnvironReader
from node_agent.settings.fields import (
    AwsSettings,
    EngineSettings,
    ReplicationSettings,
    RequestLimits,
    Settings,
    TlsSettings,
)

IMDS_ENDPOINT = "http://169.254.169.254"
_NO_TEXTS: tuple[str, ...] = ()


def from_environ(environ: Mapping[str, str]) -> Settings:
    """Read the settings. Raises ConfigurationError with every fault there is."""
    read = EnvironReader(environ)
    cluster = read.get("SYNKTI_CLUSTER", DEFAULT_CLUSTER, parse.cluster)
    model_name = read.required("SYNKTI_MODEL_NAME", parse.model_name)
    model_dir = read.required("SYNKTI_MODEL_DIR", parse.line)
    state_dir = Path(read.line("SYNKTI_STATE_DIR", "/var/lib/synkti"))
    settings = Settings(
        cluster=cluster,
        model_name=model_name,
        model_dir=model_dir,
        front=read.address("SYNKTI_FRONT", "0.0.0.0", FRONT_DOOR_PORT),  # noqa: S104 # the security group closes it
        admin=read.address("SYNKTI_ADMIN", "127.0.0.1", ADMIN_PORT),
        peer=read.address("SYNKTI_PEER", "0.0.0.0", PEER_DOOR_PORT),  # noqa: S104 # the security group closes it
        advertise_address=read.get("SYNKTI_ADVERTISE_ADDRESS", None, parse.node_address),
        client_keys=read.get("SYNKTI_API_KEYS", None, parse.client_keys),
        audit_log=read.get("SYNKTI_AUDIT_LOG", None, parse.optional_path),
        ui=read.get("SYNKTI_UI", True, parse.on_off),
        allowed_origins=read.get("SYNKTI_ALLOWED_ORIGINS", _NO_TEXTS, parse.origins),
        state_dir=state_dir,
        shared_dir=read.get("SYNKTI_SHARED_DIR", state_dir, lambda text: Path(parse.line(text))),
        runtime_dir=read.get("RUNTIME_DIRECTORY", None, lambda text: Path(parse.line(text)) if text else None),
        log_level=read.get("SYNKTI_LOG_LEVEL", "INFO", parse.log_level),
        log_format=read.get("SYNKTI_LOG_FORMAT", "text", parse.log_format),
        term_grace_s=read.get("SYNKTI_TERM_GRACE_S", 90.0, parse.positive_seconds),
        linger_s=read.get("SYNKTI_LINGER_S", 0.0, parse.seconds),
        min_silence_s=read.get("SYNKTI_MIN_SILENCE_S", MIN_INTER_TOKEN_S, parse.positive_seconds),
        kv_max_bytes=read.get("SYNKTI_KV_MAX_BYTES", 0, parse.size),
        tls=_tls(read),
        engine=_engine(read, model_name, model_dir),
        aws=_aws(read, cluster),
        limits=_limits(read),
        policy=_policy(read),
        replication=_replication(read),
    )
    if read.faults:
        raise ConfigurationError(read.faults)
    return settings


def _tls(read: EnvironReader) -> TlsSettings:
    certificate = read.get("SYNKTI_TLS_CERTIFICATE", None, parse.path)
    key = read.get("SYNKTI_TLS_KEY", None, parse.path)
    if (certificate is None) is not (key is None):
        given, missing = ("CERTIFICATE", "KEY") if key is None else ("KEY", "CERTIFICATE")
        read.faults.append(f"SYNKTI_TLS_{missing} is not set; SYNKTI_TLS_{given} needs it")
    return TlsSettings(certificate, key, peers=read.get("SYNKTI_PEER_TLS", False, parse.on_off))


def _engine(read: EnvironReader, model_name: str, model_dir: str) -> EngineSettings:
    address = read.address("SYNKTI_ENGINE", "127.0.0.1", ENGINE_PORT)
    further = read.get("SYNKTI_ENGINE_ARGS", _NO_TEXTS, parse.arguments)
    domains = read.get("SYNKTI_ALLOWED_MEDIA_DOMAINS", _NO_TEXTS, parse.media_domains)
    default_command = (*_vllm_command(model_dir, model_name, address, domains), *further)
    return EngineSettings(
        address=address,
        command=read.get("SYNKTI_ENGINE_COMMAND", default_command, parse.command),
        start_s=read.get("SYNKTI_ENGINE_START_S", 900.0, parse.positive_seconds),
        restarts=read.get("SYNKTI_ENGINE_RESTARTS", 5, parse.size),
        stuck_s=read.get("SYNKTI_ENGINE_STUCK_S", STUCK_S, parse.positive_seconds),
        socket=read.get("SYNKTI_ENGINE_SOCKET", None, lambda text: Path(parse.line(text)) if text else None),
    )


def _vllm_command(model_dir: str, model_name: str, address: Address, domains: tuple[str, ...]) -> tuple[str, ...]:
    """Build `vllm serve` on its own address, with request ids, load figures, few log lines, and media domains."""
    return (
        "vllm", "serve", model_dir, "--served-model-name", model_name,
        "--allowed-media-domains", *(domains or (NO_DOMAIN,)),
        "--host", address.host, "--port", str(address.port),
        "--enable-request-id-headers", "--enable-server-load-tracking", *access_log_arguments(),
    )  # fmt: skip


def _aws(read: EnvironReader, cluster: str) -> AwsSettings:
    return AwsSettings(
        cluster_key_secret=read.line("SYNKTI_CLUSTER_KEY_SECRET", cluster_key_secret_name(cluster)),
        cluster_key_read_s=read.get("SYNKTI_CLUSTER_KEY_READ_S", 300.0, parse.positive_seconds),
        table=read.optional("SYNKTI_TABLE", table_name(cluster)),
        checkpoints_bucket=read.optional("SYNKTI_CHECKPOINTS_BUCKET"),
        group=read.optional("SYNKTI_GROUP"),
        metadata_endpoint=read.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", IMDS_ENDPOINT, parse.endpoint),
        boot_spread_s=read.get("SYNKTI_BOOT_SPREAD_S", FIRST_READ_WITHIN_S, parse.positive_seconds),
    )


def _limits(read: EnvironReader) -> RequestLimits:
    return RequestLimits(
        max_body_bytes=read.get("SYNKTI_MAX_BODY_BYTES", 16 * 1024 * 1024, parse.count),
        max_bodies_bytes=read.get("SYNKTI_MAX_BODIES_BYTES", 256 * 1024 * 1024, parse.count),
        max_connections=read.get("SYNKTI_MAX_CONNECTIONS", 8_192, parse.count),
        max_connections_per_address=read.get("SYNKTI_MAX_CONNECTIONS_PER_ADDRESS", 4_096, parse.count),
        max_streams=read.get("SYNKTI_MAX_STREAMS", 2_000, parse.count),
        unread_s=read.get("SYNKTI_UNREAD_S", 120.0, parse.positive_seconds),
    )


def _policy(read: EnvironReader) -> PolicySettings:
    bounds = RequestBounds()
    values = {
        field.name: read.get(f"SYNKTI_{field.name.upper()}", getattr(bounds, field.name), parse.count)
        for field in fields(RequestBounds)
    }
    values["max_choices"] = read.get("SYNKTI_MAX_CHOICES", bounds.max_choices, parse.choices)
    return PolicySettings(
        allowed_routes=read.get("SYNKTI_ALLOWED_ROUTES", _NO_TEXTS, parse.optional_routes),
        allowed_fields=read.get("SYNKTI_ALLOWED_FIELDS", _NO_TEXTS, parse.guarded_fields),
        allowed_media_domains=read.get("SYNKTI_ALLOWED_MEDIA_DOMAINS", _NO_TEXTS, parse.media_domains),
        max_data_url_bytes=read.get("SYNKTI_MAX_DATA_URL_BYTES", 0, parse.size),
        cache_salt=read.get("SYNKTI_CACHE_SALT", SaltMode.SHARED, parse.salt_mode),
        bounds=RequestBounds(**values),
    )


def _replication(read: EnvironReader) -> ReplicationSettings:
    return ReplicationSettings(
        durability=read.get("SYNKTI_DURABILITY", "peer", parse.durability),
        replicas=read.get("SYNKTI_REPLICAS", REPLICATION_FACTOR, parse.replicas),
        replica_lag_s=read.get("SYNKTI_REPLICA_LAG_S", LAG_S, parse.positive_seconds),
        max_replica_bytes=read.get("SYNKTI_MAX_REPLICA_BYTES", MAX_BYTES, parse.size),
    )
