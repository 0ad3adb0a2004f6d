"""Test where an agent reads clients' keys from, and that it refuses to start with a file that is not usable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from node_agent import dependencies
from node_agent.adapters.key_stores import FileKeyStore, SecretKeyStore
from node_agent.adapters.remembered import Remembered
from node_agent.contract.errors import ConfigurationError
from node_agent.settings import from_environ
from tests.unit.core.access.keys import document, entry, key_number

UNUSED: Any = None


def _store(keys: str) -> Any:
    settings = from_environ({"SYNKTI_MODEL_NAME": "m", "SYNKTI_MODEL_DIR": "/m", "SYNKTI_API_KEYS": keys})
    return dependencies._client_keys(settings, UNUSED, Remembered(None))


def _file(folder: Path, content: bytes, mode: int = 0o600) -> Path:
    path = folder / "keys.json"
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_keys_are_off_in_a_secret_or_in_a_file(tmp_path: Path) -> None:
    assert _store("off") is None
    assert type(_store("secret:synkti/client-keys")) is SecretKeyStore
    good = document(entry(key_number(1))).to_bytes()
    assert type(_store(f"file:{_file(tmp_path, good)}")) is FileKeyStore


@pytest.mark.parametrize(
    ("content", "mode", "message"),
    [
        (document().to_bytes(), 0o644, "mode 0644.*chmod 600"),
        (b"{}", 0o600, "no key document of version 1; `synkti keys --file` writes one"),
        (b"", 0o600, "no JSON"),
    ],
)
def test_an_agent_does_not_start_with_an_unusable_file(tmp_path: Path, content: bytes, mode: int, message: str) -> None:
    path = _file(tmp_path, content, mode)
    with pytest.raises(ConfigurationError, match=f"SYNKTI_API_KEYS.*{message}"):
        _store(f"file:{path}")


def test_an_agent_does_not_start_without_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read: No such file"):
        _store(f"file:{tmp_path}/keys.json")
