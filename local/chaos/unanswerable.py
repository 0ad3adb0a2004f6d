"""Sends requests that cannot be answered: one ends every engine that reads it, one gets 500 from every engine.

Their clients must get an error, and no other client may. They are counted apart from all others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import httpx

from local.chaos.fleet import ChaosFleet
from local.emulated_instance import EmulatedInstance
from local.engines import MODEL
from local.errors import LocalRunError

POISON = "@poison"
BOOM = "@boom"
_RESPONSE_TIMEOUT_S = 60.0
_ATTEMPTS = 3
_ATTEMPT_INTERVAL_S = 1.0


async def poisonous_prompt(fleet: ChaosFleet, instances: Sequence[EmulatedInstance]) -> None:
    """Send a request that ends the engine that reads it, repeatedly to other nodes, as clients do."""
    text = f"{POISON} {fleet.next_number('poison')}"
    for number in range(_ATTEMPTS):
        if calm := fleet.stable:
            await _send(fleet, calm[number % len(calm)], text, stream=number % 2 == 0)
        await asyncio.sleep(_ATTEMPT_INTERVAL_S)


async def request_that_fails(fleet: ChaosFleet, instances: Sequence[EmulatedInstance]) -> None:
    """Send a request that vLLM answers with 500 although its engine works."""
    for number in range(_ATTEMPTS):
        if calm := fleet.stable:
            await _send(fleet, calm[number % len(calm)], f"{BOOM} {fleet.next_number('boom')}", stream=number % 2 == 0)


async def _send(fleet: ChaosFleet, instance: EmulatedInstance, text: str, *, stream: bool) -> None:
    body = {"model": MODEL, "prompt": text, "max_tokens": 20, "stream": stream}
    refused = fleet.unanswerable
    refused.sent += 1
    try:
        async with httpx.AsyncClient(timeout=_RESPONSE_TIMEOUT_S) as http:
            answer = await http.post(f"{instance.url}/v1/completions", json=body, headers=fleet.protection.headers)
    except httpx.TimeoutException:
        raise LocalRunError(
            f"no answer to {text!r} within {_RESPONSE_TIMEOUT_S:.0f} s from {instance.instance_id}"
        ) from None
    except httpx.TransportError:
        refused.refused += 1  # its entry was lost by another fault
        return
    if answer.status_code == 200 and '"error"' not in answer.text:
        refused.answered += 1
        return
    refused.refused += 1
    for code in ("request_kills_engines", "engine_lost", "no_ready_node", "InternalServerError", "handoff"):
        if code in answer.text:
            refused.codes.add(code)
