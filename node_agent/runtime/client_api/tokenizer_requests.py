"""Requests whose whole work is a tokenizer's: bounded by size, and few at once.

vLLM bounds neither. It tokenizes on the CPU of its one API server, which all streams pass: four texts of 4 MB stop
every stream for most of a minute. A text that the model could not read anyhow is refused, and others take turns.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from node_agent.contract.errors import FleetFull, RequestRejected

MAX_CONCURRENCY = 4
MAX_WAITING = 64
BYTES_PER_TOKEN = 8
"""Of a request's body: twice what English takes, and more than ids in JSON do."""

MIN_LIMIT_BYTES = 64 * 1024
DEFAULT_LIMIT_BYTES = 1024 * 1024
"""The bound where no engine has said yet how long its context is."""

_RETRY_AFTER_S = 1.0


class TokenizerRequests:
    """The requests of that kind that are under way from this node."""

    def __init__(self) -> None:
        self._slots = asyncio.Semaphore(MAX_CONCURRENCY)
        self._waiting = 0

    @contextlib.asynccontextmanager
    async def slot(self, size: int, max_model_len: int | None) -> AsyncIterator[None]:
        """For as long as the request takes. size: of its body; max_model_len: the context length, None if unknown.

        Raises RequestRejected (413) and FleetFull.
        """
        limit = DEFAULT_LIMIT_BYTES if max_model_len is None else max(MIN_LIMIT_BYTES, BYTES_PER_TOKEN * max_model_len)
        if size > limit:
            context = "" if max_model_len is None else f", which is more than a context of {max_model_len} tokens takes"
            message = f"The body has {size} bytes{context}; up to {limit} are tokenized. Send it in parts."
            raise RequestRejected(413, "request_too_large", message)
        if self._waiting >= MAX_WAITING:
            raise FleetFull(f"{MAX_WAITING} requests wait to be tokenized; try again shortly.", _RETRY_AFTER_S)
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._slots.release()
