"""Run the engine's self-test (`core/continuation/self_test`) at its start, before the node becomes ready."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import orjson

from node_agent.core.common.address import Address
from node_agent.core.continuation import self_test
from node_agent.core.continuation.method import ContinuationMethod
from node_agent.ports import ExchangeLost, Http

TIMEOUT_S = 60.0
"""A grammar takes seconds at its first use on a busy CPU. Without a passed method a node serves all the same."""

_TESTED = (ContinuationMethod.RESUME, ContinuationMethod.FORCED_DECODING)
_SILENCE_S = 30.0
_MAX_ANSWER_BYTES = 1024 * 1024
_log = logging.getLogger(__name__)


async def supported_methods(client: Http, engine: Address, model: str, timeout_s: float = TIMEOUT_S) -> tuple[str, ...]:
    """Return the names of the methods that the engine passed.

    The second is tried where the first failed. Results are logged.
    """
    passed: list[str] = []
    try:
        async with asyncio.timeout(timeout_s):
            for method in _TESTED:
                reason = await _run(client, engine, model, method)
                _log.info("the engine's self-test: %s: %s", method.value, reason or "passed")
                if reason is None:
                    passed.append(method.value)
                    break
    except TimeoutError:
        _log.warning("the engine's self-test was not done after %.0f s; passed: %s", timeout_s, passed or "nothing")
    return tuple(passed)


async def _run(client: Http, engine: Address, model: str, method: ContinuationMethod) -> str | None:
    probe = self_test.probe_steps(model, method)
    try:
        body = next(probe)
        while True:
            body = probe.send(await _generated_ids(client, engine, body))
    except StopIteration as done:
        reason: str | None = done.value
        return reason
    except (ExchangeLost, ValueError, LookupError, TypeError) as error:
        return f"the engine answered nothing that can be compared: {error!r}"
    finally:
        probe.close()


async def _generated_ids(client: Http, engine: Address, body: dict[str, object]) -> Sequence[int]:
    """Return the ids of the engine's answer. Raises ExchangeLost, ValueError, LookupError, TypeError."""
    exchange = await client.open(
        engine,
        "POST",
        "/v1/completions",
        headers={"content-type": "application/json"},
        body=orjson.dumps(body),
        read_timeout_s=_SILENCE_S,
    )
    try:
        answer = await exchange.read_all(_MAX_ANSWER_BYTES)
    finally:
        exchange.close()
    if exchange.status != 200:
        raise ValueError(f"status {exchange.status}")
    ids: list[int] = orjson.loads(answer)["choices"][0]["token_ids"]
    return ids
