"""`synkti bootstrap` to `synkti destroy`, whole: the embedded AWS, the real CDK CLI, nodes with the fake engine.

The loop that plays EC2 (local/ec2_emulator) does for the deployed group what EC2 would; everything else is what a
person does on a real account, with AWS_ENDPOINT_URL in the environment.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from local.aws import EmbeddedAws
from local.ec2_emulator import Ec2Emulator
from local.emulated_instance import EmulatedInstance, InstanceTemplate, free_network
from local.engines import MODEL, SIM, prepare_engine
from local.process_cleanup import kill_all_in, tail
from node_agent.contract.names import auto_scaling_group_name
from tests.unit.cli import weights
from tests.unit.cli.stand_in_hub import stand_in_hub

ROOT = Path(__file__).parents[2]
GROUP = auto_scaling_group_name("synkti")
SETTINGS = ["-c", "nodes=2", "-c", "drills=true", "-c", f"model={MODEL}"]

pytestmark = pytest.mark.e2e


@dataclass(frozen=True)
class Done:
    """The result of a command."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        assert self.code == 0, f"exit {self.code}\n{self.out}\n{self.err}"
        return json.loads(self.out)


@dataclass(frozen=True)
class World:
    """An embedded AWS, and the `synkti` command that uses it."""

    aws: EmbeddedAws
    folder: Path
    hub: str

    async def synkti(self, *argv: str) -> Done:
        more = {"XDG_CACHE_HOME": str(self.folder / "cache"), "NO_COLOR": "1", "HF_ENDPOINT": self.hub}
        environ = {**self.aws.environ(), **more}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "cli", *argv),
            cwd=ROOT,
            env=environ,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        assert b"Traceback" not in err, err.decode()
        return Done(process.returncode or 0, out.decode(), err.decode())

    @asynccontextmanager
    async def ec2(self) -> AsyncIterator[Ec2Emulator[EmulatedInstance]]:
        """Run the EC2 emulator for the block, as soon as the scaling group exists."""
        engine = prepare_engine(SIM, lambda text: None)
        environ = {**self.aws.environ(), **engine.environ}
        nodes, logs = self.folder / "nodes", self.folder / "logs"
        kind = InstanceTemplate("synkti", MODEL, engine.model_dir, engine.command, environ, nodes, logs)
        loop = Ec2Emulator(self.aws, GROUP, partial(EmulatedInstance, kind), free_network(), lambda text: None)

        async def play() -> None:
            await asyncio.to_thread(self._until_there_is_a_group)
            await loop.run()

        playing = asyncio.create_task(play())
        try:
            yield loop
        finally:
            playing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await playing
            for machine in loop.instances:
                machine.close()

    def _until_there_is_a_group(self) -> None:
        client, give_up_at = self.aws.client("autoscaling"), time.monotonic() + 600
        while not client.describe_auto_scaling_groups(AutoScalingGroupNames=[GROUP])["AutoScalingGroups"]:
            if time.monotonic() > give_up_at:
                return  # the command's own message is better than one from here
            time.sleep(0.1)

    async def until(self, condition: Callable[[Any], bool], *argv: str, within_s: float = 120.0) -> Any:
        """Run a command until the condition holds for its document, and return that document."""
        give_up_at = time.monotonic() + within_s
        while not condition(document := (await self.synkti(*argv)).document):
            assert time.monotonic() < give_up_at, document
            await asyncio.sleep(0.5)  # the start of the command takes CPU time from the nodes that it waits for
        return document


@pytest.fixture
def world(tmp_path: Path, model: Path) -> Any:
    aws = EmbeddedAws(tmp_path / "run", tmp_path / "logs")
    try:
        aws.wait()
        with stand_in_hub() as hub:
            hub.add("acme/tiny", {path.name: path.read_bytes() for path in model.iterdir()})
            yield World(aws, tmp_path, hub.address)
    finally:
        aws.stop()
        assert kill_all_in(tmp_path)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "weights"
    folder.mkdir()
    files = weights.model() | {"model.safetensors": weights.safetensors(size=17 * 1024 * 1024)}  # two parts
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.mark.timeout(900)
def test_bootstrap_creates_a_working_fleet_and_destroy_deletes_it(world: World, model: Path) -> None:
    asyncio.run(_scenario(world, model))


async def _scenario(world: World, model: Path) -> None:
    lost = await world.synkti("nodes", "--json")
    assert (lost.code, json.loads(lost.out)["error"]["code"]) == (4, "not_found")

    async with world.ec2() as ec2:
        # Two commands to a fleet: this is the second; the first installed it.
        # The model is only on the hub. The embedded AWS runs no builds: this command does what the build would.
        made = (
            await world.synkti("bootstrap", "--model", "acme/tiny", *SETTINGS, "--within", "300", "--json")
        ).document
        logs = "\n".join(tail(machine.log) for machine in ec2.instances)
        assert made["ready"] == 2, logs
        assert set(made["changed"]) == {
            "CDKToolkit",
            f"models/{MODEL}",
            "synkti-state",
            "synkti-model",
            "synkti-fleet",
            "synkti-events",
        }
        assert len(made["base_urls"]) == 2
        await _send_request(made["base_urls"][0])

        pushed = (await world.synkti("model", "push", str(model), "--name", MODEL, "--json")).document
        assert pushed["changed"] is False, "a copy from the hub is what a push of the same files is"

        again = (await world.synkti("bootstrap", *SETTINGS, "--json")).document
        assert again["changed"] == []
        assert (again["version"], again["ready"]) == (made["version"], 2)

        await _check_commands(world, ec2, made)
        await _drill(world, ec2)

        assert (await world.synkti("scale", "1", "--yes", "--json")).document["desired"] == 1
        await world.until(lambda seen: len(seen["nodes"]) == 1, "nodes", "--json")
        assert (await world.synkti("stop", "--yes", "--json")).document["desired"] == 0
        await world.until(lambda seen: not seen["nodes"], "nodes", "--json")

    await _destroy(world)


async def _send_request(base_url: str) -> None:
    """Send a request as a client does."""
    body = {"model": MODEL, "prompt": "hello", "max_tokens": 3}
    async with httpx.AsyncClient(timeout=20) as client:
        answer = await client.post(f"{base_url}/completions", json=body)
    assert answer.json()["usage"]["completion_tokens"] == 3, answer.text


async def _check_commands(world: World, ec2: Ec2Emulator[EmulatedInstance], made: dict[str, Any]) -> None:
    """Check the commands that show the fleet, and the one that the deployment workflow waits for."""
    seen = await world.synkti("nodes", "--wait", "--version", "deployed", "--within", "120")
    assert seen.code == 0, seen.err
    assert seen.out.splitlines()[0] == f"synkti in us-east-1: 2 of 2 nodes ready on version {made['version']}"
    assert all(machine.instance_id in seen.out for machine in ec2.instances)
    answering = (await world.synkti("endpoint", "--check", "--json")).document
    assert all(answering["answers"].values())
    (listed,) = (await world.synkti("model", "ls", "--json")).document["models"]
    assert (listed["name"], listed["files"], listed["whole"]) == (MODEL, 3, True)
    served = await world.synkti("model", "rm", MODEL, "--yes")
    assert (served.code, "the fleet serves" in served.err) == (1, True)
    doctor = (await world.synkti("doctor", "--no-templates", *SETTINGS, "--json")).document
    verdicts = {finding["check"]: finding["verdict"] for finding in doctor["findings"]}
    assert {check: verdicts[check] for check in ("credentials", "region", "cdk bootstrap", "stacks", "model")} == {
        "credentials": "ok",
        "region": "ok",
        "cdk bootstrap": "ok",
        "stacks": "ok",
        "model": "ok",
    }
    assert verdicts["gpu spot quota"] == "unknown", "the embedded AWS has no quotas, which the report states"


async def _drill(world: World, ec2: Ec2Emulator[EmulatedInstance]) -> None:
    """Send a drill's event through the deployed rule and Lambda, which write the tag."""
    node = ec2.instances[0].instance_id
    assert (await world.synkti("drill", node, "--yes", "--json")).document["by"] == "eventbridge"

    def is_draining(seen: Any) -> bool:
        return any(each["instance_id"] == node and each["state"] == "draining" for each in seen["nodes"])

    await world.until(is_draining, "nodes", "--json")


async def _destroy(world: World) -> None:
    refused = await world.synkti("destroy")
    assert (refused.code, "add --yes" in refused.err) == (9, True)
    gone = (await world.synkti("destroy", "--yes", "--json")).document
    assert gone["deleted"] == ["synkti-events", "synkti-fleet", "synkti-model", "synkti-state"]
    (kept,) = gone["kept"]
    assert kept["kind"] == "AWS::S3::Bucket"
    assert (await world.synkti("nodes")).code == 4
    # The bucket outlives its cluster.
    assert (await world.synkti("model", "ls", "--json")).document["models"][0]["whole"] is True


@pytest.mark.long  # two more deployments; tests/unit/cli/test_bootstrap.py has the import of the bucket
@pytest.mark.timeout(900)
def test_a_new_cluster_takes_over_the_bucket_of_a_destroyed_one(world: World) -> None:
    async def scenario() -> None:
        first = ("bootstrap", "--model", "acme/tiny", *SETTINGS, "--no-wait", "--json")
        assert "synkti-state" in (await world.synkti(*first)).document["changed"]
        assert (await world.synkti("destroy", "--yes")).code == 0
        anew = (await world.synkti("bootstrap", *SETTINGS, "--no-wait", "--json")).document
        assert "synkti-state" in anew["changed"]
        (listed,) = (await world.synkti("model", "ls", "--json")).document["models"]
        assert listed["whole"] is True, "the bucket has the model still"
        assert (await world.synkti("destroy", "--yes")).code == 0

    asyncio.run(scenario())
