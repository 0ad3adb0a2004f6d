"""How fast this node's engine computes a context: asked of it once it is ready, with prompts that nobody has cached.

Short prompts, for what a request costs besides its prefill, and long ones, in turns. The quickest of each count, since
an engine's first requests take longer than all that follow. The connector keeps nothing of them: their names say so.
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
    """draw: `count` numbers from `low` to `high`; clock: seconds, monotonic."""

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
        """None where the engine does not answer so long a prompt, or there was nothing to be measured."""
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
