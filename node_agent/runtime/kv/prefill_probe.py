"""Measure how fast this node's engine prefills, once it is ready, with prompts that are in no cache.

Short prompts measure what a request costs besides its prefill, and alternate with long ones. The fastest of each count,
since an engine's first requests take longer than all later ones. The connector stores nothing of them: their ids
exclude them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import orjson

from node_agent.core.common.address import Address
from node_agent.kv.requests import PROBE
from node_agent.ports import ExchangeLost, Http

SHORT_TOKENS, LONG_TOKENS = 16, 1024
TURNS = 3
_IDS = (16, 256)
"""Token ids that every vocabulary has."""

_SILENCE_S = 60.0
_MAX_ANSWER_BYTES = 1024 * 1024


class PrefillProbe:
    """Probes an engine.

    draw: returns `count` numbers from `low` to `high`.
    clock: seconds, monotonic.
    """

    def __init__(
        self,
        client: Http,
        engine: Address,
        model: str,
        draw: Callable[[int, int, int], Sequence[int]],
        clock: Callable[[], float],
    ) -> None:
        self._client = client
        self._engine = engine
        self._model = model
        self._draw = draw
        self._clock = clock

    async def tokens_per_s(self) -> float | None:
        """Return the prefill rate; None where the engine accepts no prompt so long, or the times do not differ."""
        for tokens in (LONG_TOKENS, LONG_TOKENS // 4):
            durations = [(await self._took_s(SHORT_TOKENS), await self._took_s(tokens)) for _ in range(TURNS)]
            short = [short_s for short_s, _ in durations if short_s is not None]
            long = [long_s for _, long_s in durations if long_s is not None]
            if short and long:
                difference_s = min(long) - min(short)
                return (tokens - SHORT_TOKENS) / difference_s if difference_s > 0 else None
        return None

    async def _took_s(self, tokens: int) -> float | None:
        prompt = list(self._draw(tokens, *_IDS))
        body = orjson.dumps({"model": self._model, "prompt": prompt, "max_tokens": 1, "temperature": 0})
        headers = {"content-type": "application/json", "x-request-id": f"{PROBE}-{tokens}"}
        began = self._clock()
        try:
            exchange = await self._client.open(
                self._engine, "POST", "/v1/completions", headers=headers, body=body, read_timeout_s=_SILENCE_S
            )
            try:
                await exchange.read_all(_MAX_ANSWER_BYTES)
                return self._clock() - began if exchange.status == 200 else None
            finally:
                exchange.close()
        except ExchangeLost:
            return None
