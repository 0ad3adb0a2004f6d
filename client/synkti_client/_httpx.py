"""Import the httpx that the installed OpenAI SDK uses: httpx2 since its version 3.50, httpx before.

Both may be installed, and the SDK accepts only clients of its own one, so its requirements decide. Without the SDK
either one is used.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from importlib import metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpx2 as httpx

__all__ = ["httpx", "library_of"]

_LIBRARIES = ("httpx2", "httpx")
_NAME = re.compile(r"[A-Za-z0-9._-]+")


def library_of(requirements: list[str]) -> str | None:
    """Return which of the two a distribution requires, without extras. requirements: from its metadata (PEP 508)."""
    plain = [found[0].lower() for line in requirements if "extra ==" not in line and (found := _NAME.match(line))]
    return next((name for name in _LIBRARIES if name in plain), None)


def _chosen() -> str:
    """Return the name of the library to import. Raises ImportError where neither is installed."""
    try:
        of_sdk = library_of(metadata.requires("openai") or [])
    except metadata.PackageNotFoundError:
        of_sdk = None
    for name in (of_sdk, *_LIBRARIES):
        if name is not None and importlib.util.find_spec(name) is not None:
            return name
    raise ImportError("synkti_client needs the OpenAI SDK, or httpx2: pip install openai")


if not TYPE_CHECKING:
    httpx = importlib.import_module(_chosen())
