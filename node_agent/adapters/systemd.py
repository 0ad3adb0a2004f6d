"""Notify systemd that the agent runs, and that its event loop is alive.

The protocol is one datagram of `KEY=value` lines to the socket that $NOTIFY_SOCKET names (sd_notify(3)). Without that
variable, on a laptop or in a test, nothing is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Callable, Mapping

_log = logging.getLogger(__name__)

Notify = Callable[[str], None]


def notifier(environ: Mapping[str, str]) -> Notify | None:
    """Return a function that sends a message to systemd; None without a socket."""
    name = environ.get("NOTIFY_SOCKET", "")
    if not name:
        return None
    address = "\0" + name[1:] if name.startswith("@") else name

    def notify(message: str) -> None:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.setblocking(False)
                sock.sendto(message.encode(), address)
        except (OSError, ValueError) as error:  # systemd does not listen, or no descriptor is left for the moment
            _log.warning("cannot send %s to systemd: %s", message, error)

    return notify


def watchdog_s(environ: Mapping[str, str]) -> float | None:
    """Return how often systemd expects a notification, in seconds; None where it does not."""
    given = environ.get("WATCHDOG_USEC", "")
    is_number = given.isascii() and given.isdigit() and len(given) < 16
    return int(given) / 1_000_000 if is_number and int(given) > 0 else None


@contextlib.asynccontextmanager
async def systemd_lifecycle(environ: Mapping[str, str]) -> AsyncIterator[Notify]:
    """Send READY=1 on entry, WATCHDOG=1 three times in each interval while inside, STOPPING=1 on exit.

    Yields:
        A function that sends the unit's status text, whenever it changes (`systemctl show --property StatusText`).
    """
    notify = notifier(environ)
    if notify is None:
        yield lambda status: None
        return
    notify("READY=1")
    interval = watchdog_s(environ)
    beating = asyncio.create_task(_beat(notify, interval / 3)) if interval is not None else None
    try:
        yield _Status(notify)
    finally:
        if beating is not None:
            beating.cancel()
        notify("STOPPING=1")


class _Status:
    def __init__(self, notify: Notify) -> None:
        self._notify = notify
        self._last = ""

    def __call__(self, status: str) -> None:
        if status != self._last:
            self._last = status
            self._notify(f"STATUS={status}")


async def _beat(notify: Notify, every_s: float) -> None:
    """Send WATCHDOG=1 periodically, from the agent's own loop: a loop that hangs stops it."""
    while True:
        notify("WATCHDOG=1")
        await asyncio.sleep(every_s)
