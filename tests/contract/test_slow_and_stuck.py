"""Two real vLLMs under real agents: streams that compete for KV blocks, and a core that hangs while /health is 200.

With the plug-in, which counts the core's steps, and with plain vLLM, which has only its metrics.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvloop

from local.engine_env import engine_command, ensure_engine, ensure_plugin
from local.engines import MODEL, VLLM, prepare_engine
from local.tiny_model import ensure_model
from node_agent.adapters.engine_steps import EngineStepFiles
from node_agent.core.openai.sse import DONE, SseParser
from tests.scenarios.local_fleet import LocalFleet, LocalNode, eventually, local_fleet
from tests.scenarios.test_slow_and_stuck import metrics

pytestmark = [pytest.mark.vllm, pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(900)]

FEW_BLOCKS = ("--block-size", "32", "--num-gpu-blocks-override", "132")
STREAMS, TOKENS = 24, 1_500
FROZEN_STREAMS, FROZEN_TOKENS = 4, 600
DETECTED_WITHIN_S = 45.0
"""15 s, and a margin for a busy machine; the 15 s themselves are tested on virtual time
(tests/unit/runtime/engine/test_watchdog)."""

ANSWERED_WITHIN_S = 300.0


def run_on_vllm(
    folder: Path, patch: pytest.MonkeyPatch, plugged: bool, scenario: Callable[[LocalFleet], Coroutine[Any, Any, None]]
) -> None:
    environment = ensure_engine(print)
    model = ensure_model(environment, print)
    path = (ensure_plugin(environment),) if plugged else ()
    for name, value in prepare_engine(VLLM, print).environ.items():
        if name != "SYNKTI_MIN_SILENCE_S":
            patch.setenv(name, value)

    def command(host: str, port: int) -> list[str]:
        serve = engine_command(environment, model, MODEL, host, port, *path)
        return [*serve, "--distributed-executor-backend", "uni", *FEW_BLOCKS]

    async def run() -> None:
        async with local_fleet(folder, 2, models=(MODEL,), engine=command, SYNKTI_REPLICA_LAG_S="0.5") as fleet:
            await scenario(fleet)

    uvloop.run(run())


async def stream(fleet: LocalFleet, entry: LocalNode, number: int, tokens: int, arrivals: list[float]) -> bytes:
    """Return all events of an answer, asserted complete. arrivals: collects the monotonic time of each event."""
    body = {"model": MODEL, "prompt": f"{number} the night train went on and on", "max_tokens": tokens}
    more = {"ignore_eos": True, "temperature": 0, "stream": True}
    parser, events = SseParser(), []
    patience = httpx.Timeout(30, read=ANSWERED_WITHIN_S)
    url = f"{entry.url}/v1/completions"
    async with fleet.http.stream("POST", url, json={**body, **more}, timeout=patience) as response:
        assert response.status_code == 200, await response.aread()
        async for data in response.aiter_bytes():
            batch = [event for _, event in parser.feed(data)]
            arrivals.extend([time.monotonic()] * len(batch))
            events += batch
    assert b'"error"' not in b"".join(events), events[-2:]
    assert events[-1] == DONE
    assert b'"finish_reason":"length"' in events[-2]
    return b"".join(events)


@pytest.mark.parametrize("plugged", [True, False], ids=["plug-in", "plain"])
def test_preempted_streams_that_compete_for_blocks_are_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plugged: bool
) -> None:
    async def scenario(fleet: LocalFleet) -> None:
        arrivals: list[list[float]] = [[] for _ in range(STREAMS)]
        readers = [stream(fleet, fleet.nodes[n % 2], n, TOKENS, arrivals[n]) for n in range(STREAMS)]
        await asyncio.gather(*readers)
        gaps = [max(later - one for one, later in itertools.pairwise(at)) for at in arrivals]
        print("longest gaps", sorted(round(gap, 1) for gap in gaps)[-5:])
        figures = [(await fleet.http.get(f"http://{node.host}:8002/metrics")).text for node in fleet.nodes]
        lines = [line for text in figures for line in text.splitlines() if "num_preemptions_total{" in line]
        assert sum(float(line.split()[-1]) for line in lines) > 0, "no stream was preempted"
        # A connection that a busy machine does not open in time is not under test.
        losses = [line for line in await metrics(fleet, "synkti_engine_losses_total") if "unreachable" not in line]
        assert losses == []
        assert [line for line in await metrics(fleet, "synkti_engine_states_total") if 'state="stuck"' in line] == []

    run_on_vllm(tmp_path, monkeypatch, plugged, scenario)


@pytest.mark.parametrize("plugged", [True, False], ids=["plug-in", "plain"])
def test_a_hanging_core_is_detected_and_its_streams_continue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plugged: bool
) -> None:
    async def scenario(fleet: LocalFleet) -> None:
        arrivals: list[list[float]] = [[] for _ in range(FROZEN_STREAMS)]
        readers = [
            asyncio.create_task(stream(fleet, fleet.nodes[n % 2], n, FROZEN_TOKENS, arrivals[n]))
            for n in range(FROZEN_STREAMS)
        ]

        async def all_stream() -> bool:
            return all(len(at) > 20 for at in arrivals)

        await eventually("all streams have begun", all_stream, ANSWERED_WITHIN_S)
        victim = fleet.nodes[0]
        steps = EngineStepFiles(victim.state_dir / "steps").read()
        assert (steps or 0) > 20 if plugged else steps is None, f"{steps} steps were counted"
        began = time.monotonic()
        os.kill(core_of(victim), signal.SIGSTOP)
        assert (await fleet.http.get(f"http://{victim.host}:8002/health")).status_code == 200

        async def detected() -> bool:
            return not await fleet.ready(victim)

        await eventually("the stuck core is detected", detected, DETECTED_WITHIN_S)
        print(f"detected after {time.monotonic() - began:.1f} s")
        await asyncio.gather(*readers)
        assert [line for line in await metrics(fleet, "synkti_engine_states_total") if 'state="stuck"' in line]

    run_on_vllm(tmp_path, monkeypatch, plugged, scenario)


def core_of(node: LocalNode) -> int:
    """Return the pid of a node's engine core."""
    group = int((node.state_dir / "engine.group").read_text().split()[1])
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and _group(entry) == group and b"EngineCor" in (entry / "comm").read_bytes():
            return int(entry.name)
    raise AssertionError("the engine has no core")


def _group(process: Path) -> int | None:
    try:
        return int((process / "stat").read_bytes().rpartition(b")")[2].split()[2])
    except OSError:
        return None
