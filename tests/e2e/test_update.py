"""A deployment of another version under load: nodes are replaced one at a time, and no client loses a token.

The stacks are deployed to the embedded AWS twice, the second time with other engine arguments, and thus with another
version. The EC2 emulator then does what the group's instance refresh would do: it starts a new node, waits until it is
ready, and drains an old one. Clients use the transport of `synkti_client`; the engine is the fake engine, whose
expected answers are known.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random

import pytest

import synkti_client
from local.aws import EmbeddedAws
from local.certificate import StreamOutcome, build_certificate, passed
from local.chaos.client import send_request
from local.chaos.workload import expected, random_request
from local.deploy import Deployed, deploy
from local.ec2_emulator import Ec2Emulator
from local.emulated_instance import EmulatedInstance, InstanceTemplate, free_network
from local.engines import MODEL, SIM, prepare_engine
from local.process_cleanup import processes_in, tail

NODES = 3
CLIENTS = 8
TOKENS = (300, 800)
WITHIN_S = 180.0
GRACE_S = 7.0
"""So short that a drain has to hand streams off; in production nearly all of them finish in place."""

pytestmark = pytest.mark.e2e


class Update:
    """A fleet under load, and the outcomes of its clients' streams."""

    def __init__(self, aws: EmbeddedAws, folder: Path, deployed: Deployed) -> None:
        engine = prepare_engine(SIM, lambda text: None)
        environ = {**aws.environ(), **engine.environ, "SYNKTI_TERM_GRACE_S": str(GRACE_S)}
        kind = InstanceTemplate(
            deployed.cluster, MODEL, engine.model_dir, engine.command, environ, folder / "nodes", folder / "logs"
        )
        self.output: list[str] = []
        self.loop = Ec2Emulator(
            aws, deployed.auto_scaling_group, partial(EmulatedInstance, kind), free_network(), self.output.append
        )
        self.outcomes: list[StreamOutcome] = []
        self.least_serving = NODES
        self.done = False

    async def until(self, what: str, check: Callable[[], bool]) -> None:
        give_up_at = time.monotonic() + WITHIN_S
        while not check():
            logs = [f"{machine.log}\n{tail(machine.log)}" for machine in self.loop.instances]
            assert time.monotonic() < give_up_at, "\n".join([f"{what} did not happen", *self.output, *logs])
            await asyncio.sleep(0.1)

    async def serving(self) -> int:
        checks = [asyncio.to_thread(machine.is_ready) for machine in self.loop.instances]
        return sum(await asyncio.gather(*checks))

    async def watch(self) -> None:
        """Record the smallest number of nodes that served at once."""
        while not self.done:
            self.least_serving = min(self.least_serving, await self.serving())
            await asyncio.sleep(0.2)

    async def client(self, random: Random) -> None:
        """Send random requests and compare their answers, through one transport with the addresses of all nodes."""
        urls = [machine.url for machine in self.loop.instances]
        async with contextlib.AsyncExitStack() as stack:
            transport = synkti_client.async_transport(urls)
            stack.push_async_callback(transport.aclose)
            while not self.done:
                request = random_request(random, TOKENS, choices=1)
                result = await send_request(request, MODEL, "http://synkti/v1", transport)
                right = expected(request)
                got = result.outputs[0]
                if not (request.returns_token_ids and request.stream):  # then the response has only the text
                    right = type(right)((), right.text)
                    got = type(got)((), got.text)
                pause = max((each.pause_ms for each in result.continuations), default=None)
                kind = "update" if result.continuations else None
                name = f"{request.text} {request.max_tokens}"
                self.outcomes.append(StreamOutcome(name, right, got, kind, pause, result.error or result.inconsistency))


@pytest.fixture
def aws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EmbeddedAws]:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    embedded = EmbeddedAws(tmp_path / "run", tmp_path / "logs")
    try:
        embedded.wait()
        yield embedded
    finally:
        embedded.stop()


@pytest.mark.timeout(400)
def test_an_update_loses_no_token(aws: EmbeddedAws, tmp_path: Path) -> None:
    deployed = deploy(aws, tmp_path)
    update = Update(aws, tmp_path, deployed)

    async def scenario() -> None:
        emulating = asyncio.create_task(update.loop.run())
        try:
            await _wait_until_all_serve(update)
            before = {machine.instance_id for machine in update.loop.instances}
            version = update.loop.instances[0].version
            clients = [asyncio.create_task(update.client(Random(number))) for number in range(CLIENTS)]
            watching = asyncio.create_task(update.watch())
            more = {"engine_args": "--max-model-len 2048"}
            await asyncio.to_thread(deploy, aws, tmp_path, deployed.cluster, more)

            def replaced() -> bool:
                machines = update.loop.instances
                return len(machines) == NODES and not before & {machine.instance_id for machine in machines}

            await update.until("the replacement of every node", replaced)
            await _wait_until_all_serve(update)
            assert {machine.version for machine in update.loop.instances} != {version}
            before_wait = len(update.outcomes)
            await update.until("some answers of the new nodes", lambda: len(update.outcomes) > before_wait + CLIENTS)
            update.done = True
            await asyncio.gather(*clients, watching)
        finally:
            emulating.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await emulating
            for machine in update.loop.instances:
                machine.close()

    asyncio.run(scenario())
    certificate = build_certificate(SIM, None, Counter(update=NODES), update.outcomes, 0.0)
    print(json.dumps({key: certificate[key] for key in ("streams", "resumed", "tokens", "client_errors", "pause_ms")}))
    wrong = [each for each in update.outcomes if each.error or not each.verified]
    assert wrong == [], "\n".join(update.output)
    assert passed(certificate), certificate
    assert certificate["streams"] > 2 * CLIENTS, "streams were open all the time"
    assert certificate["resumed"] > 0, "some streams were handed off"
    assert update.least_serving >= NODES, "a new node was ready before each drain"
    assert not processes_in(tmp_path / "nodes")


async def _wait_until_all_serve(update: Update) -> None:
    give_up_at = time.monotonic() + WITHIN_S
    while await update.serving() < NODES:
        assert time.monotonic() < give_up_at, "\n".join(update.output)
        await asyncio.sleep(0.1)
