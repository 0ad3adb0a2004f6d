"""The client's sync transport is what `python -m checks.sync_client` generates from the async one."""

from __future__ import annotations

from checks.sync_client import SOURCE, TARGET, to_sync


def test_the_sync_transport_is_generated() -> None:
    assert TARGET.read_text() == to_sync(SOURCE.read_text()), "run python -m checks.sync_client"
