"""Finds what a page lacks for people who use it with a keyboard or a screen reader, with axe-core.

axe-core is installed from its lock file into a folder of these tests, once.
"""

from __future__ import annotations

import os
import subprocess
from functools import cache
from pathlib import Path
from typing import NoReturn

import pytest

from local.chromium import Tab

_FOLDER = Path(__file__).parent
_SCRIPT = _FOLDER / "node_modules" / "axe-core" / "axe.min.js"
_INSTALL = ("npm", "ci", "--silent", "--no-audit", "--no-fund", "--ignore-scripts")
_INSTALL_WITHIN_S = 120
_RUN = """(async () => {
  const found = await axe.run(document, {resultTypes: ["violations"]});
  const where = (each) => each.nodes.map((node) => `${node.target} ${node.any[0]?.message ?? ""}`).join(", ");
  return found.violations.map((each) => `${each.id}: ${each.help}: ${where(each)}`);
})()"""


def unavailable(reason: str) -> NoReturn:
    """Skip the test, for that reason; in CI it fails, unless SYNKTI_WITHOUT_BROWSER says that there is no browser."""
    if os.environ.get("CI") and not os.environ.get("SYNKTI_WITHOUT_BROWSER"):
        pytest.fail(reason)
    pytest.skip(reason)


@cache
def _source() -> str:
    """Return axe-core's script. Skips the test where it cannot be installed."""
    if not _SCRIPT.is_file():
        try:
            done = subprocess.run(
                _INSTALL, cwd=_FOLDER, capture_output=True, text=True, timeout=_INSTALL_WITHIN_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            unavailable(f"axe-core cannot be installed: {error}")
        if done.returncode:
            unavailable(f"axe-core cannot be installed: {done.stderr.strip()[-200:]}")
    return _SCRIPT.read_text(encoding="utf-8")


async def violations(tab: Tab) -> list[str]:
    """Return every rule of axe-core that the page breaks, with the elements that do."""
    await tab.evaluate(f"{_source()}; undefined")
    found: list[str] = await tab.evaluate(_RUN)
    return found
