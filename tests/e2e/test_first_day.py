"""`synkti drill first-day` against the deployed stacks, as far as the embedded AWS models them.

The command runs as a person runs it. The interruption, which needs the Fault Injection Service, is the emulator's: the
step's own client, its watch of the node and of the deployed Lambdas' records, and its verdict are the real ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cli.core.first_day.report import Outcome
from cli.core.nodes import Node
from cli.first_day.day import DayOptions, FirstDay
from cli.first_day.losses import interruption_by
from cli.fleet import open_fleet
from cli.terminal import Terminal
from local.aws import ACCOUNT, EmbeddedAws
from local.deploy import ROOT, Deployed, deploy
from local.ec2_emulator import Ec2Emulator
from local.emulated_instance import EmulatedInstance, InstanceTemplate, free_network
from local.engines import MODEL, SIM, prepare_engine
from local.process_cleanup import kill_all_in, tail

NOTICE_S = 12.0
READY_WITHIN_S = 120.0

pytestmark = pytest.mark.e2e


@pytest.fixture
def aws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EmbeddedAws]:
    for name in [name for name in os.environ if name.startswith(("AWS_", "SYNKTI_"))]:
        monkeypatch.delenv(name)
    embedded = EmbeddedAws(tmp_path / "run", tmp_path / "logs")
    try:
        embedded.wait()
        for name, value in embedded.environ().items():
            if name.startswith("AWS_"):
                monkeypatch.setenv(name, value)
        yield embedded
    finally:
        embedded.stop()
        assert kill_all_in(tmp_path)


@asynccontextmanager
async def fleet(aws: EmbeddedAws, folder: Path, deployed: Deployed) -> AsyncIterator[Ec2Emulator[EmulatedInstance]]:
    """Run the deployed group's instances, and wait until all of them serve."""
    engine = prepare_engine(SIM, lambda text: None)
    environ = {**aws.environ(), **engine.environ}
    nodes, logs = folder / "nodes", folder / "logs"
    kind = InstanceTemplate(deployed.cluster, MODEL, engine.model_dir, engine.command, environ, nodes, logs)
    emulator = Ec2Emulator(
        aws, deployed.auto_scaling_group, partial(EmulatedInstance, kind), free_network(), lambda text: None
    )
    emulating = asyncio.create_task(emulator.run())
    try:
        async with asyncio.timeout(READY_WITHIN_S):
            await _until_all_serve(emulator)
        yield emulator
    finally:
        emulating.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await emulating
        for machine in emulator.instances:
            machine.close()


async def _until_all_serve(emulator: Ec2Emulator[EmulatedInstance]) -> None:
    while True:
        machines = list(emulator.instances)
        serving = await asyncio.gather(*(asyncio.to_thread(machine.is_ready) for machine in machines))
        if len(serving) == 3 and all(serving):
            return
        await asyncio.sleep(0.2)


async def synkti(*argv: str) -> tuple[int, Any]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cli", *argv, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert b"Traceback" not in err, err.decode()
    return process.returncode or 0, json.loads(out)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_first_day_on_the_embedded_aws(aws: EmbeddedAws, tmp_path: Path) -> None:
    # The context length of the agents' model is not the stacks' matter: only its name is.
    settings = {"alarm_email": "ops@example.com", "model": MODEL}
    deployed = deploy(aws, tmp_path, "synkti", settings)

    async def scenario() -> None:
        async with fleet(aws, tmp_path, deployed) as emulator:
            await _until_tagged(aws, deployed)
            await _run_the_command(tmp_path)
            await _interrupt(emulator)

    asyncio.run(scenario())


async def _until_tagged(aws: EmbeddedAws, deployed: Deployed) -> None:
    """Wait for the nodes' own tags, which follow their readiness."""
    async with asyncio.timeout(READY_WITHIN_S):
        while True:
            code, document = await synkti("nodes", "--cluster", deployed.cluster, "--json")
            if code == 0 and document["ready"] == 3:
                return
            await asyncio.sleep(0.5)


async def _run_the_command(folder: Path) -> None:
    argv = ["drill", "first-day", "--cluster", "synkti", "--yes", "--json", "--report", str(folder / "report")]
    code, document = await synkti(*argv)
    steps = {step["step"]: step for step in document["steps"]}
    outcomes = {name: step["outcome"] for name, step in steps.items()}
    assert outcomes == {
        "fleet": "ok",
        "launch": "not run",
        "tags": "not run",
        "alarm": "not run",
        "drain": "not run",
        "interruption": "not run",
        "fallback": "not run",
    }, document
    assert code == 0
    # The deployed rule and Lambda have decided on the drill's event; the embedded group has no base to be raised.
    assert steps["fallback"]["facts"]["base_raised_to"] == 2, steps["fallback"]
    assert steps["alarm"]["undone"], "the alarm's state is what it was"
    pages = [path.read_text(encoding="utf-8") for path in (folder / "report").iterdir()]
    assert len(pages) == 2
    for page in (*pages, json.dumps(document)):
        assert ACCOUNT not in page
        assert "ops@example.com" not in page
        assert "127." not in page


async def _interrupt(emulator: Ec2Emulator[EmulatedInstance]) -> None:
    day = FirstDay(Terminal(True), open_fleet("synkti", None, None), DayOptions(yes=True, within_s=150.0))
    loop = asyncio.get_running_loop()
    taken: list[str] = []

    def interrupt(node: Node) -> None:
        taken.append(node.instance_id)
        machine = emulator.instance(node.instance_id)
        asyncio.run_coroutine_threadsafe(emulator.interrupt(machine, NOTICE_S), loop).result()

    result = await asyncio.to_thread(interruption_by, day, interrupt, spot_only=False)
    logs = "\n".join(tail(machine.log) for machine in emulator.instances)
    assert result.outcome is Outcome.OK, f"{result}\n{logs}"
    facts: dict[str, Any] = dict(result.facts)
    assert facts["streams_broken"] == facts["streams_differing"] == 0
    assert facts["answers_repeatable"] is True
    assert facts["streams_continued"] >= 1, facts
    assert 0 <= facts["notice_seen_after_s"] < 5, facts
    assert any(each.startswith("interruption-notice@eventbridge") for each in facts["timeline"])
    assert facts["gone_after_s"] < NOTICE_S + 20, facts
    assert taken[0] not in {machine.instance_id for machine in emulator.instances}
