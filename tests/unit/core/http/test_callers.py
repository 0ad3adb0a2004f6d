"""Which callers a server without keys accepts: its messages as a gateway, and as an admin listener."""

from __future__ import annotations

import pytest

from node_agent.core.http.callers import CallerPolicy

ADMIN = CallerPolicy(server="admin listener", has_options=False)


@pytest.mark.parametrize(
    "headers",
    [
        {b"host": b"synkti.attacker.example:8003"},
        {b"host": b"10.0.1.5:8003", b"origin": b"https://attacker.example"},
        {b"host": b"10.0.1.5:8003", b"origin": b"null"},
        {b"host": b"10.0.1.5:8003", b"sec-fetch-site": b"cross-site"},
    ],
    ids=["rebound name", "foreign origin", "sandboxed page", "image of a page"],
)
def test_a_page_is_rejected_without_advice_that_does_not_apply(headers: dict[bytes, bytes]) -> None:
    reason = ADMIN.rejection_reason(headers)
    assert reason is not None
    assert "admin listener" in reason
    assert "--allow" not in reason
    assert "--allow" in (CallerPolicy().rejection_reason(headers) or "")


@pytest.mark.parametrize(
    "host", [b"10.0.1.5:8003", b"127.0.0.1:8003", b"localhost:8003", b"node-7", b"", b"[::1]:8003"]
)
def test_a_program_is_accepted(host: bytes) -> None:
    assert ADMIN.rejection_reason({b"host": host}) is None
