"""One browser for all tests of the page; where this machine has none, they are skipped, and say so."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from local.chromium import Browser, chromium, program
from tests.browser.axe import unavailable

Story = Callable[[Browser], Coroutine[Any, Any, None]]


@contextlib.asynccontextmanager
async def _browser(folder: Path) -> AsyncIterator[Browser]:
    async with chromium(folder) as browser:
        yield browser


@pytest.fixture
def in_browser(tmp_path: Path) -> Callable[[Story], None]:
    """Return what runs a test with a browser of its own."""
    if program() is None:
        unavailable("no Chromium on this machine: install the package chromium to run the tests of the page")

    def run(story: Story) -> None:
        async def main() -> None:
            async with _browser(tmp_path / "profile") as browser:
                await story(browser)

        uvloop.run(main())

    return run
