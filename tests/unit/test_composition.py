"""What a node is made with: its first status, and its engine's environment."""

from __future__ import annotations

import os
from pathlib import Path

from node_agent.adapters.engine_process import EngineProcess
from node_agent.adapters.engine_unit import EngineUnit
from node_agent.composition.engine import engine_environ, engine_group
from node_agent.composition.membership import first_status
from node_agent.contract.states import NodeState
from node_agent.core.kv.blocks import NAMES_KEY, names_key
from node_agent.core.node.status import Pool
from node_agent.ports import Identity
from node_agent.settings import Settings, from_environ

IDENTITY = Identity("i-1", "us-east-1a", "us-east-1", "g5.xlarge", "10.0.0.7")


def settings(**more: str) -> Settings:
    return from_environ({"SYNKTI_MODEL_NAME": "m", "SYNKTI_MODEL_DIR": "/m", "SYNKTI_STATE_DIR": "/s"} | more)


def test_a_node_starts_at_its_private_address() -> None:
    status = first_status(settings(), IDENTITY, 7, "a key")
    assert (status.instance_id, status.state, status.incarnation) == ("i-1", NodeState.STARTING, 7)
    assert status.public_key == "a key"
    assert (status.peer_address, status.client_address) == ("10.0.0.7:8001", "10.0.0.7:8000")
    assert status.pool == Pool("us-east-1a", "g5.xlarge")


def test_the_host_of_an_advertised_address_holds_for_both_apis() -> None:
    status = first_status(settings(SYNKTI_ADVERTISE_ADDRESS="192.0.2.1:9001"), IDENTITY, 7, "a key")
    assert (status.peer_address, status.client_address) == ("192.0.2.1:9001", "192.0.2.1:8000")


def test_the_engine_counts_its_steps_in_the_states_folder_and_follows_no_redirect_of_a_medium() -> None:
    environ = engine_environ(settings(), {"HOME": "/h", "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "1"}, b"key")
    assert environ == {"HOME": "/h", "SYNKTI_STEPS_DIR": "/s/steps", "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0"}


def test_an_engine_that_keeps_blocks_imports_this_package_first() -> None:
    root = str(Path(__file__).resolve().parents[2])
    keeping = settings(SYNKTI_KV_MAX_BYTES="1024")
    assert engine_environ(keeping, {}, b"key")["PYTHONPATH"] == root
    environ = engine_environ(keeping, {"PYTHONPATH": "/other"}, b"key")
    assert environ["PYTHONPATH"] == os.pathsep.join((root, "/other"))
    assert environ[NAMES_KEY] == names_key(b"key").hex() != b"key".hex()


def test_the_engine_is_a_child_process_unless_it_has_a_unit_of_its_own() -> None:
    assert isinstance(engine_group(settings(), {}, b"key"), EngineProcess)
    assert isinstance(engine_group(settings(SYNKTI_ENGINE_SOCKET=""), {}, b"key"), EngineProcess)
    assert isinstance(engine_group(settings(SYNKTI_ENGINE_SOCKET="/run/synkti-engine.sock"), {}, b"key"), EngineUnit)


def test_agent_and_engine_share_only_one_folder() -> None:
    shared = settings(SYNKTI_SHARED_DIR="/shared")
    assert (shared.kv_dir, shared.steps_dir, shared.state_dir) == (
        Path("/shared/kv"),
        Path("/shared/steps"),
        Path("/s"),
    )
