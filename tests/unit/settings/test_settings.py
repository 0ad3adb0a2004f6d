"""The agent's settings, and how `python -m node_agent` refuses wrong ones."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.contract.errors import ConfigurationError
from node_agent.core.common.address import Address
from node_agent.core.policy.bounds import SETTINGS, RequestBounds
from node_agent.core.policy.cache_salt import SaltMode
from node_agent.core.policy.request_policy import PolicySettings
from node_agent.settings import from_environ

LEAST = {"SYNKTI_MODEL_NAME": "m", "SYNKTI_MODEL_DIR": "/models/m"}


def test_a_node_on_ec2_needs_a_model_and_nothing_else() -> None:
    settings = from_environ(LEAST)
    assert settings.engine.address == Address("127.0.0.1", 8002), "vLLM checks no keys: it listens on loopback"
    assert settings.engine.command[:3] == ("vllm", "serve", "/models/m")
    assert settings.aws.cluster_key_secret == "synkti/cluster-key"
    assert settings.aws.table == "synkti-records"
    assert settings.aws.metadata_endpoint == "http://169.254.169.254"
    assert settings.advertise_address is None


def test_given_values_take_precedence_over_defaults() -> None:
    settings = from_environ(
        {
            **LEAST,
            "SYNKTI_CLUSTER": "blue",
            "SYNKTI_ENGINE_COMMAND": '["x", "y"]',
            "SYNKTI_TABLE": "",
            "SYNKTI_PEER_PORT": "9",
        }
    )
    assert (settings.cluster, settings.aws.cluster_key_secret) == ("blue", "blue/cluster-key")
    assert settings.engine.command == ("x", "y")
    assert settings.aws.table is None
    assert settings.peer.port == 9


def test_further_arguments_come_after_the_engines_own() -> None:
    settings = from_environ({**LEAST, "SYNKTI_ENGINE_ARGS": '["--max-model-len", "8192"]'})
    assert settings.engine.command[:2] == ("vllm", "serve")
    assert settings.engine.command[-2:] == ("--max-model-len", "8192")


def test_what_clients_may_send_is_read_with_its_defaults() -> None:
    assert from_environ(LEAST).policy == PolicySettings()
    policy = from_environ(
        {
            **LEAST,
            "SYNKTI_ALLOWED_ROUTES": "/tokenize, /v1/embeddings",
            "SYNKTI_ALLOWED_FIELDS": "priority,chat_template_kwargs.enable_thinking",
            "SYNKTI_ALLOWED_MEDIA_DOMAINS": "images.example.com",
            "SYNKTI_MAX_DATA_URL_BYTES": "1000",
            "SYNKTI_CACHE_SALT": "per-key",
            "SYNKTI_MAX_CHOICES": "8",
            "SYNKTI_MAX_REGEX_CHARS": "100",
        }
    ).policy
    assert policy == PolicySettings(
        allowed_routes=("/tokenize", "/v1/embeddings"),
        allowed_fields=("priority", "chat_template_kwargs.enable_thinking"),
        allowed_media_domains=("images.example.com",),
        max_data_url_bytes=1_000,
        cache_salt=SaltMode.PER_KEY,
        bounds=RequestBounds(max_choices=8, max_regex_chars=100),
    )


@pytest.mark.parametrize("name", SETTINGS)
def test_each_bound_is_a_variable(name: str) -> None:
    bounds = from_environ({**LEAST, f"SYNKTI_{name.upper()}": "7"}).policy.bounds
    assert bounds == replace(RequestBounds(), **{name: 7})


@pytest.mark.parametrize(
    ("domains", "given"), [("", ["none.invalid"]), ("a.example,b.example", ["a.example", "b.example"])]
)
def test_the_engine_fetches_media_from_the_same_domains_and_by_default_from_none(
    domains: str, given: list[str]
) -> None:
    command = from_environ({**LEAST, "SYNKTI_ALLOWED_MEDIA_DOMAINS": domains}).engine.command
    at = command.index("--allowed-media-domains")
    assert [*command[at + 1 : at + 1 + len(given)]] == given
    assert command[at + 1 + len(given)].startswith("--"), "the list ends with another option"


WRONG = {
    "SYNKTI_ENGINE_ARGS": "--max-model-len",
    "SYNKTI_CLUSTER": "Bad!",
    "SYNKTI_FRONT_PORT": "0",
    "SYNKTI_ENGINE_COMMAND": "vllm serve",
    "SYNKTI_ADVERTISE_ADDRESS": "here",
    "SYNKTI_TERM_GRACE_S": "-1",
    "SYNKTI_MAX_STREAMS": "many",
    "SYNKTI_KV_MAX_BYTES": "-1",
    "SYNKTI_ADMIN_PORT": "http",
    "SYNKTI_TLS_CERTIFICATE": "node.pem",
    "SYNKTI_TLS_KEY": "node.key",
    "SYNKTI_ALLOWED_ROUTES": "/sleep",
    "SYNKTI_ALLOWED_FIELDS": "model",
    "SYNKTI_ALLOWED_MEDIA_DOMAINS": "10.0.0.1",
    "SYNKTI_CACHE_SALT": "none",
    "SYNKTI_MAX_CHOICES": "1025",
    "SYNKTI_API_KEYS": "on",
    "SYNKTI_AUDIT_LOG": "audit.log",
    "SYNKTI_UI": "yes",
}


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("", None),
        ("off", None),
        ("file:/etc/synkti/keys.json", Path("/etc/synkti/keys.json")),
        ("secret:synkti/client-keys", "synkti/client-keys"),
        ("arn:aws:secretsmanager:us-east-1:123456789012:secret:synkti/client-keys-AbCdEf",) * 2,
    ],
)
def test_clients_keys_lie_in_a_file_or_in_a_secret_or_are_off(text: str, where: Path | str | None) -> None:
    assert from_environ({**LEAST, "SYNKTI_API_KEYS": text}).client_keys == where


@pytest.mark.parametrize(
    ("host", "keys", "is_open"),
    [
        ("0.0.0.0", "off", True),  # it is compared
        ("10.0.0.5", "off", True),
        ("0.0.0.0", "secret:x", False),  # it is compared
        ("127.0.0.1", "off", False),
        ("127.8.0.3", "off", False),
        ("localhost", "off", False),
    ],
)
def test_without_keys_only_loopback_is_closed(host: str, keys: str, is_open: bool) -> None:
    settings = from_environ({**LEAST, "SYNKTI_FRONT_HOST": host, "SYNKTI_API_KEYS": keys})
    assert settings.is_open_to_anybody is is_open


@pytest.mark.parametrize(
    "text", ["on", "file:", "file:keys.json", "secret:", "arn:aws:s3:::b", "keys.json", "secret:a\nb", "off "]
)
def test_a_place_of_keys_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="SYNKTI_API_KEYS"):
        from_environ({**LEAST, "SYNKTI_API_KEYS": text})


def test_an_engine_keeps_blocks_only_with_room_for_them() -> None:
    assert "--kv-transfer-config" not in from_environ(LEAST).engine_argv
    keeping = from_environ({**LEAST, "SYNKTI_KV_MAX_BYTES": "1024", "SYNKTI_STATE_DIR": "/s"})
    assert keeping.engine_argv[-2] == "--kv-transfer-config"
    assert '"folder": "/s/kv"' in keeping.engine_argv[-1]


def test_connections_to_peers_come_from_the_address_where_they_reach_this_node() -> None:
    assert from_environ(LEAST).source_host is None
    assert from_environ({**LEAST, "SYNKTI_PEER_HOST": "127.0.0.2"}).source_host == "127.0.0.2"


def test_metrics_are_on_the_loopback_by_default() -> None:
    assert from_environ(LEAST).admin == Address("127.0.0.1", 8003)


def test_a_certificate_needs_its_key_and_the_key_its_certificate() -> None:
    pair = {"SYNKTI_TLS_CERTIFICATE": "/etc/synkti/node.pem", "SYNKTI_TLS_KEY": "/etc/synkti/node.key"}
    assert from_environ({**LEAST, **pair}).tls.key == Path("/etc/synkti/node.key")
    assert from_environ(LEAST).tls.certificate is None
    for name in pair:
        with pytest.raises(ConfigurationError, match=f"{name} is not set"):
            from_environ({**LEAST, **pair, name: ""})


def test_without_durability_a_stream_has_no_replicas() -> None:
    assert from_environ({**LEAST, "SYNKTI_REPLICAS": "3"}).replication.factor == 3
    assert from_environ({**LEAST, "SYNKTI_REPLICAS": "3", "SYNKTI_DURABILITY": "none"}).replication.factor == 0


def test_checkpoints_are_written_only_with_a_bucket() -> None:
    assert from_environ(LEAST).aws.checkpoints_bucket is None
    assert from_environ({**LEAST, "SYNKTI_CHECKPOINTS_BUCKET": "b"}).aws.checkpoints_bucket == "b"


ODD = [
    *(("SYNKTI_ADVERTISE_ADDRESS", text) for text in (
        "10.71.3.7", "node-7.internal:8001", "[::1]:8001", "10.71.3.7:0", "10.71.3.7:65536", "10.71.3.7:８００１",
        "0.0.0.0:8001", "224.0.0.1:8001", "255.255.255.255:1", "169.254.169.254:80", "10.0.0.1:1:1", "10.0.0.1: 1",
        "010.0.0.1:8001", "1" * 5000,
    )),
    ("SYNKTI_FRONT_HOST", "::1"),
    ("SYNKTI_PEER_HOST", "a b"),
    ("SYNKTI_ENGINE_PORT", "²"),
    ("SYNKTI_TERM_GRACE_S", "inf"),
    ("SYNKTI_TERM_GRACE_S", "nan"),
    ("SYNKTI_ENGINE_START_S", "1e400"),
    ("SYNKTI_MAX_STREAMS", "0"),
    ("SYNKTI_MAX_STREAMS", "1_000"),
    ("SYNKTI_MAX_BODY_BYTES", "-5"),
    ("SYNKTI_ENGINE_RESTARTS", "9" * 5000),
    ("SYNKTI_ENGINE_ARGS", "[" * 100_000),
    ("SYNKTI_MODEL_NAME", "m" * 129),
    ("SYNKTI_MODEL_NAME", "m\nx"),
    ("SYNKTI_MODEL_NAME", "m\udcff"),
    ("SYNKTI_LOG_LEVEL", "chatty"),
    ("SYNKTI_ALLOWED_ROUTES", "/tokenize/"),
    ("SYNKTI_ALLOWED_ROUTES", "/v1/load_lora_adapter"),
    ("SYNKTI_ALLOWED_FIELDS", "chat_template_kwargs."),
    ("SYNKTI_ALLOWED_FIELDS", "priority;cache_salt"),
    ("SYNKTI_ALLOWED_MEDIA_DOMAINS", "https://a.example"),
    ("SYNKTI_ALLOWED_MEDIA_DOMAINS", "*.example.com"),
    ("SYNKTI_MAX_DATA_URL_BYTES", "1 MiB"),
    ("SYNKTI_MAX_TOOLS", "0"),
    ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:99999"),
    ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://[x"),
    ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "https://127.0.0.1"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text"), ODD, ids=lambda value: str(value)[:30])
def test_values_that_would_stop_a_node_are_refused_at_its_start(name: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        from_environ({**LEAST, name: text})


MORE = ("SYNKTI_FRONT_HOST", "SYNKTI_PEER_PORT", "SYNKTI_TABLE", "SYNKTI_STATE_DIR")
NAMES = sorted({*MORE, *WRONG, *LEAST, *(name for name, _ in ODD)})


@given(st.dictionaries(st.sampled_from(NAMES), st.text(max_size=40) | st.sampled_from([text for _, text in ODD])))
def test_any_environment_is_read_or_every_fault_is_named(environ: dict[str, str]) -> None:
    try:
        settings = from_environ(environ)
    except ConfigurationError:
        return
    assert settings.model_name


@pytest.mark.parametrize("name", WRONG)
def test_each_wrong_value_is_named(name: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        from_environ({**LEAST, name: WRONG[name]})


def test_the_process_prints_every_fault_and_exits_with_78() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "node_agent"],
        cwd=Path(__file__).parents[3],
        env=WRONG,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 78
    for name in (*WRONG, *LEAST):
        assert name in done.stderr
