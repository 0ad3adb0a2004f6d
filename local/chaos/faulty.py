"""Injects faults with which nodes and engines misbehave for a while, without being lost."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Sequence
from typing import Any

import httpx

from local.chaos.fleet import ChaosFleet, engine_group, signal_engine
from local.chaos.unanswerable import BOOM, POISON
from local.emulated_instance import EmulatedInstance
from local.engines import MODEL
from local.errors import LocalRunError
from local.faulty_agent import write_faults
from node_agent.contract.names import ENGINE_PORT

FEW_BLOCKS_ARGS = ("--block-size", "32", "--num-gpu-blocks-override", "132")
"""vLLM's arguments for so few blocks that its requests compete for them: 4,224 tokens in all."""

FAKE_ENGINE_ARGS = ("--faults", "--on-text", f"{POISON}=dies", "--on-text", f"{BOOM}=error-500")
"""The fake engine's arguments that all these faults need."""

_DURATION_S = 8.0
_RESTART_TIMEOUT_S = 40.0
"""15 s until a hanging engine is detected, and what a busy machine adds to that and to the restart."""

_PULSES = 40
_STOPPED_S, _RUNNING_S = 0.15, 0.05
_CROWD, _CROWD_TOKENS, _CROWDED_S = 8, 1_000, 20.0
_SLOW = {"seconds_per_token": 1.5}
_NORMAL = {"seconds_per_token": 0.01}
_POST_ATTEMPTS, _POST_TIMEOUT_S = 12, 5.0
_ERRORS = [{"kind": "status-500"}] * 6
SKEWS_S = (60.0, -45.0, 3_600.0, -86_400.0)


async def skewed_clock(fleet: ChaosFleet, instances: Sequence[EmulatedInstance]) -> None:
    """Make a node's wall clock jump, and later jump back."""
    folder = instances[0].folder
    write_faults(folder, clock_s=fleet.next_option("skew", SKEWS_S))
    try:
        await asyncio.sleep(_DURATION_S)
    finally:
        write_faults(folder)


async def dead_replica_link(fleet: ChaosFleet, instances: Sequence[EmulatedInstance]) -> None:
    """Make a node accept and close new replication connections; open ones stay."""
    folder = instances[0].folder
    write_faults(folder, close_links=1)
    try:
        await asyncio.sleep(_DURATION_S)
    finally:
        write_faults(folder)


async def stuck_core(fleet: ChaosFleet, instances: Sequence[EmulatedInstance]) -> None:
    """Let an engine's core hang while its /health is 200: the agent has to detect it and restart the engine.

    Raises LocalRunError if it does not.
    """
    instance = instances[0]
    before = engine_group(instance)
    await _change_core(instance, {"wedged": True})
    await fleet.wait_for(
        f"{instance.instance_id} ends an engine that hangs",
        lambda: not instance.running or engine_group(instance) != before,
        _RESTART_TIMEOUT_S,
    )


async def slow_engine(fleet: ChaosFleet, instances: Sequence[EmulatedInstance]) -> None:
    """Make an engine slow for a while, neither lost nor stuck."""
    await _change_core(instances[0], _SLOW)
    try:
        await asyncio.sleep(_DURATION_S)
    finally:
        await _change_core(instances[0], _NORMAL)


async def slowed_engine(fleet: ChaosFleet, instances: Sequence[EmulatedInstance]) -> None:
    """Slow an engine that has no such switch: stop it and let it continue, many times."""
    try:
        for _ in range(_PULSES):
            signal_engine(instances[0], signal.SIGSTOP)
            await asyncio.sleep(_STOPPED_S)
            signal_engine(instances[0], signal.SIGCONT)
            await asyncio.sleep(_RUNNING_S)
    finally:
        signal_engine(instances[0], signal.SIGCONT)


async def preempted_streams(fleet: ChaosFleet, instances: Sequence[EmulatedInstance]) -> None:
    """Preempt half of an engine's streams for a while; the others get their tokens."""
    await _change_core(instances[0], {"preempt": {"seconds": _DURATION_S, "share": 0.5}})
    await asyncio.sleep(_DURATION_S)


async def crowded_engine(fleet: ChaosFleet, instances: Sequence[EmulatedInstance]) -> None:
    """Preempt streams in a vLLM with few blocks: send it long requests directly, which take the blocks."""
    url = f"http://{instances[0].host}:{ENGINE_PORT}/v1/completions"
    body = {"model": MODEL, "max_tokens": _CROWD_TOKENS, "ignore_eos": True, "stream": True}
    async with httpx.AsyncClient(timeout=httpx.Timeout(5.0, read=None)) as http:
        crowd = [asyncio.create_task(_read(http, url, {**body, "prompt": f"{n} in a crowd"})) for n in range(_CROWD)]
        await asyncio.wait(crowd, timeout=_CROWDED_S)
        for one in crowd:
            one.cancel()
        await asyncio.gather(*crowd, return_exceptions=True)


async def _read(http: httpx.AsyncClient, url: str, body: dict[str, Any]) -> None:
    with contextlib.suppress(httpx.HTTPError):
        async with http.stream("POST", url, json=body) as response:
            async for _ in response.aiter_raw():
                pass


async def long_step(fleet: ChaosFleet, instances: Sequence[EmulatedInstance]) -> None:
    """Make one step of an engine long, as another request's prefill does."""
    await _change_core(instances[0], {"step_s": _DURATION_S})
    await asyncio.sleep(_DURATION_S)


async def engine_errors(fleet: ChaosFleet, instances: Sequence[EmulatedInstance]) -> None:
    """Make an engine answer the next requests with 500; other engines answer them."""
    await _post(instances[0], "/standin/faults", _ERRORS)
    await asyncio.sleep(_DURATION_S)
    await _post(instances[0], "/standin/faults", [])


async def _change_core(instance: EmulatedInstance, wanted: dict[str, Any]) -> None:
    await _post(instance, "/standin/core", wanted)


async def _post(instance: EmulatedInstance, path: str, body: object) -> None:
    """Post to the engine itself; do nothing if it is gone.

    An engine that does not answer in time is not gone. It gets the request again, because an engine that is never set
    back to normal serves seconds a token until the end of the run.

    Raises:
        LocalRunError: the engine never answers, or does not accept the body.
    """
    for _ in range(_POST_ATTEMPTS):
        async with httpx.AsyncClient(timeout=_POST_TIMEOUT_S) as http:
            try:
                answer = await http.post(f"http://{instance.host}:{ENGINE_PORT}{path}", json=body)
            except httpx.TimeoutException:
                continue
            except httpx.TransportError:
                return
        break
    else:
        raise LocalRunError(f"the fake engine of {instance.instance_id} does not answer to {body}")
    if answer.status_code != 200:
        raise LocalRunError(f"the fake engine of {instance.instance_id} does not accept {body}: {answer.text}")
