"""Test the keys in force: what is read again, what replaces what, and who is refused."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any

import pytest

from node_agent.contract.errors import NoReadyPeer, RequestRejected
from node_agent.core.access.caller import ANYBODY, Scope
from node_agent.core.access.client_key import ClientKey
from node_agent.core.access.key_document import KeyDocument
from node_agent.core.node.peer_clocks import RIGHT, OwnClock
from node_agent.runtime.client_api import client_keys
from node_agent.runtime.client_api.client_keys import ClientKeys
from node_agent.runtime.common.metrics import Metrics
from node_agent.testing.fake_keys import MemoryKeyStore
from tests.unit.core.access.keys import NOW, document, entry, key_number

ONE, TWO = key_number(1), key_number(2)


class _Stage:
    """Keys over a store in memory, and a clock that a test sets."""

    def __init__(self, *documents: KeyDocument, kept: bytes | None = None) -> None:
        self.now = 100.0
        self.node = self._node()
        self.store = MemoryKeyStore(documents[0].to_bytes() if documents else b"", kept)
        self.keys = ClientKeys(self.node, self.store, lambda: 0.5)

    def _node(self) -> Any:
        return SimpleNamespace(
            metrics=Metrics(),
            wall_clock=lambda: NOW + self.now - 100.0,
            own_clock=RIGHT,
            gossip=SimpleNamespace(monotonic=lambda: self.now),
        )

    def read(self) -> None:
        asyncio.run(self.keys.read(self.store))

    def name(self, key: ClientKey, scope: Scope = Scope.INFERENCE) -> str:
        return self.keys.identify({b"x-api-key": key.text}, "/v1/models", scope).name

    def refuses(self, key: ClientKey, scope: Scope = Scope.INFERENCE) -> int:
        with pytest.raises(RequestRejected) as rejected:
            self.keys.identify({b"x-api-key": key.text}, "/v1/models", scope)
        return rejected.value.status

    def metric(self, name: str) -> float:
        lines = self.node.metrics.exposition().decode().splitlines()
        return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name + " "))


def test_without_a_store_anybody_may_do_anything() -> None:
    stage = _Stage()
    keys = ClientKeys(stage.node, None, lambda: 0.0)
    assert keys.identify({}, "/v1/models?api_key=x", Scope.ADMIN) is ANYBODY
    assert keys.state == "off"
    assert stage.metric("synkti_client_keys_off") == 1
    asyncio.run(keys.run())  # it ends at once


def test_until_a_document_is_read_nobody_is_accepted() -> None:
    stage = _Stage(document(entry(ONE)))
    assert stage.keys.state == "unavailable"
    with pytest.raises(NoReadyPeer, match="could not read the clients' keys yet"):
        stage.name(ONE)
    with pytest.raises(RequestRejected, match="has no API key"):
        stage.keys.identify({}, "/", Scope.INFERENCE)
    stage.read()
    assert stage.keys.state == "on"
    assert stage.name(ONE) == "chat"
    assert stage.metric("synkti_client_keys") == 1


def test_a_document_without_a_key_revokes_it_and_one_with_a_new_key_adds_it() -> None:
    stage = _Stage(document(entry(ONE)))
    stage.read()
    stage.store.document = document(entry(TWO, "new")).to_bytes()
    assert stage.name(ONE) == "chat", "until it is read again"
    stage.read()
    assert stage.refuses(ONE) == 401
    assert stage.name(TWO) == "new"


@pytest.mark.parametrize("broken", [b"", b"{}", b'{"version":1,"keys":[],"pepper":"short"}', b"x" * 70_000])
def test_an_unusable_document_never_replaces_a_good_one(broken: bytes, caplog: pytest.LogCaptureFixture) -> None:
    stage = _Stage(document(entry(ONE)))
    stage.read()
    stage.store.document = broken
    stage.now += 40
    with caplog.at_level(logging.WARNING):
        stage.read()
        stage.read()
    assert stage.name(ONE) == "chat"
    assert stage.metric("synkti_client_keys_age_seconds") == 40, "the document in force gets older"
    assert stage.metric('synkti_client_key_reads_total{outcome="unusable"}') == 2
    assert len(caplog.records) == 1, "the same failure is logged once"
    assert "the keys read before stay in force" in caplog.text
    assert stage.store.kept == document(entry(ONE)).to_bytes(), (
        "the next agent of this machine begins with the good one"
    )


def test_the_last_document_stays_in_force_while_the_store_is_away() -> None:
    stage = _Stage(document(entry(ONE, expires=NOW + 60)))
    stage.read()
    stage.store.is_away = True
    stage.now += 30
    stage.read()
    assert stage.name(ONE) == "chat"
    assert stage.metric("synkti_client_keys_age_seconds") == 30
    stage.now += 30
    assert stage.refuses(ONE) == 401, "an expiry needs no store"
    assert stage.metric("synkti_client_keys") == 0


def test_a_store_that_never_answers_is_given_up_and_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_keys, "READ_TIMEOUT_S", 0.01)
    stage = _Stage(document(entry(ONE)))
    stage.read()

    async def never() -> bytes:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(stage.store, "read", never)
    stage.read()
    assert stage.metric('synkti_client_key_reads_total{outcome="unavailable"}') == 1
    assert stage.name(ONE) == "chat"


def test_an_unchanged_document_is_fresh_again() -> None:
    stage = _Stage(document(entry(ONE)))
    stage.read()
    stage.now += 20
    stage.read()
    assert stage.metric("synkti_client_keys_age_seconds") == 0
    assert stage.metric('synkti_client_key_reads_total{outcome="unchanged"}') == 1


def test_a_restarted_agent_begins_with_what_the_last_one_kept() -> None:
    stage = _Stage(document(entry(TWO)), kept=document(entry(ONE)).to_bytes())
    assert stage.name(ONE) == "chat"
    stage.read()
    assert stage.refuses(ONE) == 401


def test_what_was_kept_and_is_damaged_counts_as_absent() -> None:
    assert _Stage(document(entry(ONE)), kept=b"damaged").keys.state == "unavailable"


def test_a_scope_that_is_missing_is_403_and_counted() -> None:
    stage = _Stage(document(entry(ONE, "chat", Scope.INFERENCE)))
    stage.read()
    assert stage.refuses(ONE, Scope.METRICS) == 403
    assert stage.metric('synkti_refused_callers_total{code="insufficient_scope"}') == 1


def test_an_expiry_is_judged_by_the_fleets_time_where_this_clock_is_off() -> None:
    stage = _Stage(document(entry(ONE, expires=NOW + 60)))
    stage.read()
    stage.node.own_clock = OwnClock(-3600.0, 4, 4, is_off=True)
    assert stage.refuses(ONE) == 401, "this node is an hour behind: the key has expired"
    stage.node.own_clock = OwnClock(-3600.0, 1, 4, is_off=False)
    assert stage.name(ONE) == "chat", "one peer is no proof"
