"""The agent's settings, and how `python -m node_agent` refuses wrong ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.contract.errors import ConfigurationError
from node_agent.core.common.address import Address
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


WRONG = {
    "SYNKTI_ENGINE_ARGS": "--max-model-len",
    "SYNKTI_CLUSTER": "Bad!",
    "SYNKTI_FRONT_PORT": "0",
    "SYNKTI_ENGINE_COMMAND": "vllm serve",
    "SYNKTI_ADVERTISE_ADDRESS": "here",
    "SYNKTI_TERM_GRACE_S": "-1",
    "SYNKTI_MAX_STREAMS": "many",
    "SYNKTI_KV_MAX_BYTES": "-1",
    "SYNKTI_API_KEYS": "on",
    "SYNKTI_AUDIT_LOG": "audit.log",
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


def test_without_durability_a_stream_has_no_replicas() -> None:
    assert from_environ({**LEAST, "SYNKTI_KEEPERS": "3"}).replication.factor == 3
    assert from_environ({**LEAST, "SYNKTI_KEEPERS": "3", "SYNKTI_DURABILITY": "none"}).replication.factor == 0


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
