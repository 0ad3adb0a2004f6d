"""Generate the client's sync transport from the async one, as httpcore does: `python -m checks.sync_client`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "client" / "synkti_client"
SOURCE = PACKAGE / "_transport.py"
TARGET = PACKAGE / "_sync_transport.py"
_DOCSTRING = re.compile(r'\A""".*?"""', re.DOTALL)
_HEADER = '"""The sync httpx transport. Generated from `_transport` by `python -m checks.sync_client`; do not edit."""'
_SUBSTITUTIONS = (
    (r"async (def|for|with) ", r"\1 "),
    (r"await ", ""),
    (r"import asyncio", "import time"),
    (r"asyncio\.sleep", "time.sleep"),
    (r"an async transport", "a sync transport"),
    (r"handle_async_request", "handle_request"),
    (r"__aiter__", "__iter__"),
    (r"\ba(read|close)\b", r"\1"),
    (r"AsyncByteStream", "SyncByteStream"),
    (r"\b(_?)Async([A-Z]\w+)", r"\1\2"),
)


def to_sync(source: str) -> str:
    """Return the sync form of the async transport's source."""
    result = _DOCSTRING.sub(_HEADER, source)
    for pattern, replacement in _SUBSTITUTIONS:
        result = re.sub(pattern, replacement, result)
    return result


def main() -> int:
    """Write the sync transport. Returns the exit code."""
    TARGET.write_text(to_sync(SOURCE.read_text()))
    print(f"{TARGET.name} is written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
