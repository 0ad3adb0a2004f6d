"""The httpx that the OpenAI SDK is built on: httpx2 since its version 3.50, httpx before."""

from __future__ import annotations

try:
    import httpx2 as httpx
except ImportError:  # an older SDK
    import httpx  # type: ignore[no-redef]

__all__ = ["httpx"]
