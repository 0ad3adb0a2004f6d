"""systemd's notification socket: that the agent runs, and that its event loop still goes round.

The protocol is one datagram of `KEY=value` lines to the socket that $NOTIFY_SOCKET names (sd_notify(3)). Without that
variable, on a laptop or in a test, nobody is told anything.
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
    """What sends a message to systemd; None where nobody listens."""
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
            _log.warning("systemd could not be told %s: %s", message, error)

    return notify


def watchdog_s(environ: Mapping[str, str]) -> float | None:
    """How often systemd expects a sign of life, in seconds; None where it does not."""
    given = environ.get("WATCHDOG_USEC", "")
    is_number = given.isascii() and given.isdigit() and len(given) < 16
    return int(given) / 1_000_000 if is_number and int(given) > 0 else None


@contextlib.asynccontextmanager
async def systemd_lifecycle(environ: Mapping[str, str]) -> AsyncIterator[Notify]:
    """READY=1 on entering, WATCHDOG=1 three times in each interval while inside, STOPPING=1 on leaving.

    Yields what sends the unit's status text, whenever it is another one (`systemctl show --property StatusText`).
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
    """On the agent's own loop: a loop that hangs stops it."""
    while True:
        notify("WATCHDOG=1")
        await asyncio.sleep(every_s)
