"""Protect a local fleet as a deployment is by default: clients need a key, and nodes speak TLS to each other."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from node_agent.core.access.caller import Scope
from node_agent.core.access.client_key import ID_BYTES, SECRET_BYTES, hash_key, make_key
from node_agent.core.access.key_document import KeyDocument, KeyEntry

_NAME = "local"


@dataclass(frozen=True)
class Protection:
    """What protects a fleet. environ: of its agents; key: of its clients, "" where they need none."""

    environ: Mapping[str, str]
    key: str = ""

    @property
    def headers(self) -> dict[str, str]:
        """The headers of a client's requests."""
        return {"authorization": f"Bearer {self.key}"} if self.key else {}

    @property
    def client_environ(self) -> dict[str, str]:
        """The variables of a client's process, such as a gateway's."""
        return {"SYNKTI_API_KEY": self.key} if self.key else {}


UNPROTECTED = Protection({})


def protect(folder: Path) -> Protection:
    """Make a client's key, and the file of its hash in a folder; return what agents and clients need of it."""
    key = make_key(secrets.token_bytes(ID_BYTES), secrets.token_bytes(SECRET_BYTES))
    pepper = secrets.token_hex(32).encode()
    entry = KeyEntry(key.key_id, _NAME, hash_key(pepper, key), frozenset(Scope), time.time())
    path = folder / "client-keys.json"
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(KeyDocument(pepper, (entry,)).to_bytes())
    return Protection({"SYNKTI_API_KEYS": f"file:{path}", "SYNKTI_PEER_TLS": "on"}, key.text.decode())
