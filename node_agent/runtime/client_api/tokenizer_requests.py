"""Bound the requests that only need a tokenizer, by size and by concurrency.

vLLM bounds neither. It tokenizes on the CPU of its one API server, which serves all streams: four texts of 4 MB stop
every stream for most of a minute. A text that exceeds the model's context is rejected, and others wait for a slot.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from node_agent.contract.errors import FleetFull, RequestRejected

MAX_CONCURRENCY = 4
MAX_WAITING = 64
BYTES_PER_TOKEN = 8
"""Of a request's body: twice what English needs, and more than ids in JSON do."""

MIN_LIMIT_BYTES = 64 * 1024
DEFAULT_LIMIT_BYTES = 1024 * 1024
"""The limit while no engine has reported its context length."""

_RETRY_AFTER_S = 1.0


class TokenizerRequests:
    """The tokenizer requests that are active at this node. bytes_per_token: of a body, for each of the context."""

    def __init__(self, bytes_per_token: int = BYTES_PER_TOKEN) -> None:
        self._bytes_per_token = bytes_per_token
        self._slots = asyncio.Semaphore(MAX_CONCURRENCY)
        self._waiting = 0

    @contextlib.asynccontextmanager
    async def slot(self, size: int, max_model_len: int | None) -> AsyncIterator[None]:
        """Hold a slot for as long as the request takes.

        size: bytes of its body.
        max_model_len: the context length in tokens, None if unknown.

        Raises:
            RequestRejected: the body is larger than the context can be (413).
            FleetFull: too many requests wait for a slot.
        """
        bound = DEFAULT_LIMIT_BYTES if max_model_len is None else self._bytes_per_token * max_model_len
        limit = max(MIN_LIMIT_BYTES, bound)
        if size > limit:
            context = "" if max_model_len is None else f", which is more than a context of {max_model_len} tokens takes"
            setting = "SYNKTI_MAX_CHARS_PER_TOKEN on the nodes"
            message = f"The body has {size} bytes{context}; up to {limit} are tokenized ({setting}). Send it in parts."
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
