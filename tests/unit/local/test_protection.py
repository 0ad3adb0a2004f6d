"""What protects a local fleet: a key whose hash alone is on the disk, and TLS between nodes."""

from __future__ import annotations

import time
from pathlib import Path

from local.protection import UNPROTECTED, protect
from node_agent.core.access.caller import Caller, Scope
from node_agent.core.access.client_key import parse_key
from node_agent.core.access.key_document import parse_key_document
from node_agent.core.access.key_ring import KeyRing
from node_agent.settings.environ import from_environ

REQUIRED = {"SYNKTI_MODEL_NAME": "m", "SYNKTI_MODEL_DIR": "d"}


def test_the_agents_read_the_key_that_the_clients_send(tmp_path: Path) -> None:
    protection = protect(tmp_path)
    (path,) = tmp_path.iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    assert protection.key.encode() not in path.read_bytes()
    key = parse_key(protection.headers["authorization"].removeprefix("Bearer ").encode())
    assert key is not None
    found = KeyRing(parse_key_document(path.read_bytes())).identify(key, time.time())
    assert isinstance(found, Caller)
    assert found.scopes == frozenset(Scope)
    settings = from_environ({**REQUIRED, **protection.environ})
    assert settings.tls.peers
    assert settings.client_keys is not None
    assert protection.client_environ == {"SYNKTI_API_KEY": protection.key}


def test_an_unprotected_fleet_needs_nothing() -> None:
    assert (dict(UNPROTECTED.environ), UNPROTECTED.headers, UNPROTECTED.client_environ) == ({}, {}, {})
