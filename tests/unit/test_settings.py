"""The agent's settings, and how `python -m node_agent` refuses wrong ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from node_agent.contract.errors import ConfigurationError
from node_agent.core.addresses import Address
from node_agent.settings import from_environ

LEAST = {"SYNKTI_MODEL_NAME": "m", "SYNKTI_MODEL_DIR": "/models/m"}


def test_a_node_on_ec2_needs_a_model_and_nothing_else() -> None:
    settings = from_environ(LEAST)
    assert settings.engine == Address("127.0.0.1", 8002), "vLLM checks no keys: it listens on loopback"
    assert settings.engine_command[:3] == ("vllm", "serve", "/models/m")
    assert settings.cluster_key_secret == "synkti/cluster-key"
    assert settings.table == "synkti-records"
    assert settings.metadata_endpoint == "http://169.254.169.254"
    assert settings.advertise_address is None


def test_what_is_given_counts() -> None:
    settings = from_environ(
        {
            **LEAST,
            "SYNKTI_CLUSTER": "blue",
            "SYNKTI_ENGINE_COMMAND": '["x", "y"]',
            "SYNKTI_TABLE": "",
            "SYNKTI_PEER_PORT": "9",
        }
    )
    assert (settings.cluster, settings.cluster_key_secret) == ("blue", "blue/cluster-key")
    assert settings.engine_command == ("x", "y")
    assert settings.table is None
    assert settings.peer.port == 9


def test_further_arguments_come_after_the_engines_own() -> None:
    settings = from_environ({**LEAST, "SYNKTI_ENGINE_ARGS": '["--max-model-len", "8192"]'})
    assert settings.engine_command[:2] == ("vllm", "serve")
    assert settings.engine_command[-2:] == ("--max-model-len", "8192")


WRONG = {
    "SYNKTI_ENGINE_ARGS": "--max-model-len",
    "SYNKTI_CLUSTER": "Bad!",
    "SYNKTI_FRONT_PORT": "0",
    "SYNKTI_ENGINE_COMMAND": "vllm serve",
    "SYNKTI_ADVERTISE_ADDRESS": "here",
    "SYNKTI_TERM_GRACE_S": "-1",
    "SYNKTI_MAX_STREAMS": "many",
    "SYNKTI_KV_MAX_BYTES": "-1",
}


def test_an_engine_keeps_blocks_only_where_there_is_room_for_them() -> None:
    assert "--kv-transfer-config" not in from_environ(LEAST).engine_argv
    keeping = from_environ({**LEAST, "SYNKTI_KV_MAX_BYTES": "1024", "SYNKTI_STATE_DIR": "/s"})
    assert keeping.engine_argv[-2] == "--kv-transfer-config"
    assert '"folder": "/s/kv"' in keeping.engine_argv[-1]


def test_checkpoints_are_left_only_where_there_is_a_bucket() -> None:
    assert from_environ(LEAST).checkpoints_bucket is None
    assert from_environ({**LEAST, "SYNKTI_CHECKPOINTS_BUCKET": "b"}).checkpoints_bucket == "b"


@pytest.mark.parametrize("name", WRONG)
def test_each_wrong_value_is_named(name: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        from_environ({**LEAST, name: WRONG[name]})


def test_the_process_tells_every_fault_and_exits_with_78() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "node_agent"],
        cwd=Path(__file__).parents[2],
        env=WRONG,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 78
    for name in (*WRONG, *LEAST):
        assert name in done.stderr
