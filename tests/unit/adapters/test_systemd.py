"""systemd's notification socket: the messages that the agent sends to it, and when."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from node_agent.adapters.systemd import notifier, systemd_lifecycle, watchdog_s


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    name = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(name)
        listener.settimeout(5)
        yield name, listener


def test_ready_watchdog_and_stopping_are_sent_in_the_agents_lifetime(systemd: tuple[str, socket.socket]) -> None:
    name, listener = systemd
    messages: list[bytes] = []

    async def story() -> None:
        async with systemd_lifecycle({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "30000"}):
            messages.extend([await asyncio.to_thread(listener.recv, 100) for _ in range(4)])

    asyncio.run(story())
    messages.append(listener.recv(100))
    assert messages[0] == b"READY=1"
    assert set(messages[1:4]) == {b"WATCHDOG=1"}
    while messages[-1] == b"WATCHDOG=1":  # already in flight
        messages.append(listener.recv(100))
    assert messages[-1] == b"STOPPING=1"


def test_the_units_status_is_sent_when_it_changes(systemd: tuple[str, socket.socket]) -> None:
    name, listener = systemd

    async def story() -> None:
        async with systemd_lifecycle({"NOTIFY_SOCKET": name}) as send_status:
            for status in ("not serving: starting", "serving: ready", "serving: ready", "serving: draining"):
                send_status(status)

    asyncio.run(story())
    messages = [listener.recv(100).decode() for _ in range(5)]
    assert messages[1:4] == ["STATUS=not serving: starting", "STATUS=serving: ready", "STATUS=serving: draining"]


def test_a_loop_that_hangs_sends_no_watchdog_message(systemd: tuple[str, socket.socket]) -> None:
    name, listener = systemd

    async def story() -> None:
        async with systemd_lifecycle({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "3000"}):
            give_up_at = time.monotonic() + 0.05
            while time.monotonic() < give_up_at:  # busy, and never back in the loop
                pass

    asyncio.run(story())
    listener.setblocking(False)
    assert [listener.recv(100), listener.recv(100)] == [b"READY=1", b"STOPPING=1"]


def test_without_systemd_nothing_is_sent(tmp_path: Path) -> None:
    async def story() -> None:
        async with systemd_lifecycle({}) as send_status:
            send_status("serving: ready")

    asyncio.run(story())
    assert notifier({}) is None


def test_a_socket_without_a_listener_is_no_failure(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    notify = notifier({"NOTIFY_SOCKET": str(tmp_path / "nobody")})
    assert notify is not None
    with caplog.at_level(logging.WARNING):
        notify("READY=1")
    assert "cannot send" in caplog.text


@pytest.mark.parametrize(
    ("environ", "expected"),
    [({}, None), ({"WATCHDOG_USEC": "30000000"}, 30.0), ({"WATCHDOG_USEC": "0"}, None), ({"WATCHDOG_USEC": "x"}, None)],
)
def test_the_watchdog_interval_is_read_in_seconds(environ: dict[str, str], expected: float | None) -> None:
    assert watchdog_s(environ) == expected
