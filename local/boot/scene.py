"""What the parts of a boot run share: the fleet of booted instances, AWS, and how to look at both."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from local.aws import ACCOUNT, REGION, EmbeddedAws
from local.boot.machine import BootedInstance, MachineTemplate
from local.demo.client import StreamResult, read_stream
from local.demo.request import DemoRequest
from local.demo.screen import Screen
from local.deploy import ROOT
from local.ec2_emulator import Ec2Emulator
from local.engines import MODEL, SIM, prepare_engine
from local.errors import LocalRunError
from node_agent.contract.names import END_OF_LIFE_PREFIX, ENGINE_PORT, checkpoints_bucket_name

NODES = 2
SETTINGS = {"nodes": str(NODES), "model": MODEL, "ready_within_s": "900", "api_keys": "true", "audit_log": "true"}
"""Of the deployment, beside those of every local run: keys and the audit log are as on AWS. So is TLS between nodes."""

READY_WITHIN_S = 600.0
_POLL_S = 0.25
_CLI_TIMEOUT_S = 120.0
_PID = re.compile(r"pid=(\d+)")
_ENGINE_UNIT = ("synkti-engine", "synkti-engine.service")
"""The user and the unit of an engine (docs/decisions/0038)."""


@dataclass
class Scene:
    """The run's state.

    folder: for files of this run; api_key: of its client, empty before `create_key`; unshown: what the parts could not
    show, each with its evidence.
    """

    aws: EmbeddedAws
    cluster: str
    emulator: Ec2Emulator[BootedInstance]
    template: MachineTemplate
    screen: Screen
    folder: Path
    http: httpx.AsyncClient
    api_key: str = ""
    unshown: list[str] = field(default_factory=list)

    async def until(self, what: str, check: Callable[[], Awaitable[bool]], within_s: float) -> float:
        """Wait until `check` is true; return how long it took, in seconds.

        An instance that does not run, or does not answer, counts as false.

        Args:
            what: completes "not within 5 s: ".
            check: called four times a second.
            within_s: seconds.

        Returns:
            Seconds.

        Raises:
            LocalRunError: it took longer.
        """
        began = time.monotonic()
        last = ""
        while time.monotonic() - began < within_s:
            try:
                if await check():
                    return time.monotonic() - began
            except (LocalRunError, httpx.HTTPError) as error:
                last = f" ({error})"
            await asyncio.sleep(_POLL_S)
        raise LocalRunError(f"not within {within_s:.0f} s: {what}{last}")

    async def fleet(self, within_s: float = READY_WITHIN_S) -> list[BootedInstance]:
        """Wait until all NODES instances serve and list each other as ready; return them. Raises LocalRunError."""

        async def whole() -> bool:
            ready = [instance for instance in self.emulator.instances if await self._lists(instance)]
            return len(ready) == len(self.emulator.instances) == NODES

        await self.until(f"{NODES} nodes serve and know each other", whole, within_s)
        return list(self.emulator.instances)

    async def _lists(self, instance: BootedInstance) -> bool:
        try:
            answer = await self.get(instance, "/v1/synkti/nodes", self.api_key)
        except httpx.HTTPError:
            return False
        if answer.status_code != httpx.codes.OK:  # it has not read the keys yet
            return False
        states = [str(node["state"]) for node in answer.json()["nodes"]]
        return states.count("ready") == NODES

    async def get(self, instance: BootedInstance, path: str, api_key: str = "") -> httpx.Response:
        """Send a GET request to the instance's client API. Raises httpx.HTTPError. api_key: empty to send none."""
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        return await self.http.get(f"{instance.url}{path}", headers=headers)

    async def create_key(self, name: str) -> str:
        """Create a client's key with `synkti keys`; return it. Raises LocalRunError."""
        return str(json.loads(await self.command("keys", "create", name, "--json"))["key"])

    async def is_ready(self, instance: BootedInstance) -> bool:
        """Return whether the instance's node accepts requests."""
        return await asyncio.to_thread(instance.is_ready)

    async def inside(self, instance: BootedInstance, command: str, timeout_s: float = 60.0) -> str:
        """Run a shell's command as root in the instance; return its standard output. Raises LocalRunError."""
        return await asyncio.to_thread(instance.container.run, command, timeout_s)

    async def unit(self, instance: BootedInstance, name: str) -> dict[str, str]:
        """Return the properties of one of the instance's units. Raises LocalRunError."""
        return await asyncio.to_thread(instance.unit, name)

    async def processes(self, instance: BootedInstance) -> tuple[str, str]:
        """Return the numbers, inside, of the agent and its engine. Raises LocalRunError while one is missing."""
        agent = (await self.unit(instance, "synkti.service"))["MainPID"]
        listening = await self.inside(instance, f"ss -Hltnp 'sport = :{ENGINE_PORT}'")
        engine = _PID.search(listening)
        if engine is None or agent == "0":
            raise LocalRunError(f"{instance.instance_id} has no agent or no engine")
        return agent, engine[1]

    async def require_engine_unit(self, instance: BootedInstance) -> None:
        """Require that the engine's process is of the engine's own unit and user. Raises LocalRunError."""
        _, engine = await self.processes(instance)
        shown = await self.inside(instance, f"ps --format user:32=,unit:64= --pid {engine}")
        require(shown.split() == list(_ENGINE_UNIT), f"the engine of {instance.instance_id} runs as {shown}")

    async def read(
        self, instance: BootedInstance, tokens: int, on_chunk: Callable[[StreamResult], None] = lambda result: None
    ) -> StreamResult:
        """Read a stream at the instance's client API to its end. Raises LocalRunError where it fails."""
        request = _request(tokens)
        result = await read_stream(
            instance.url, MODEL, request, lambda so_far, text: on_chunk(so_far), api_key=self.api_key
        )
        if result.error is not None:
            raise LocalRunError(f"the stream at {instance.instance_id} failed: {result.error}")
        return result

    async def stream(
        self, instance: BootedInstance, tokens: int, on_chunk: Callable[[StreamResult], None] = lambda result: None
    ) -> StreamResult:
        """Read a stream of the fake engine; compare it with the known answer. Raises LocalRunError."""
        request, result = _request(tokens), await self.read(instance, tokens, on_chunk)
        if result.output != prepare_engine(SIM, self.screen.log).reference(request):
            raise LocalRunError(f"the stream at {instance.instance_id} is not the uninterrupted answer")
        return result

    async def last_logs(self, instance_id: str) -> dict[str, str]:
        """Return the instance's end-of-life logs in S3, by the names of the objects."""

        def read() -> dict[str, str]:
            s3, bucket = self.aws.client("s3"), checkpoints_bucket_name(self.cluster, ACCOUNT, REGION)
            listed = s3.list_objects_v2(Bucket=bucket, Prefix=f"{END_OF_LIFE_PREFIX}{instance_id}/")
            keys = [item["Key"] for item in listed.get("Contents", [])]
            return {key: s3.get_object(Bucket=bucket, Key=key)["Body"].read().decode() for key in keys}

        return await asyncio.to_thread(read)

    async def last_log(self, instance_id: str, ending: str, within_s: float = 60.0) -> str:
        """Wait for the log of this ending (`success`); copy it to the run's logs, return it. Raises LocalRunError."""

        async def there() -> bool:
            return any(name.endswith(f"-{ending}.log") for name in await self.last_logs(instance_id))

        await self.until(f"{instance_id} writes its last log ({ending}) to S3", there, within_s)
        logs = await self.last_logs(instance_id)
        log = next(text for name, text in sorted(logs.items(), reverse=True) if name.endswith(f"-{ending}.log"))
        (self.template.logs / f"{instance_id}-{ending}.log").write_text(log)
        return log

    async def command(self, *arguments: str, with_errors: bool = False) -> str:
        """Run the `synkti` command against the embedded AWS. Raises LocalRunError where it fails.

        Args:
            *arguments: without the cluster and the region.
            with_errors: return its standard error, too, where it prints what is not the answer itself.

        Returns:
            Its standard output.
        """
        argv = [sys.executable, "-m", "cli", *arguments, "--cluster", self.cluster, "--region", REGION]
        environ = {**self.aws.environ(), "PYTHONPATH": f"{ROOT}:{ROOT / 'client'}"}

        def run() -> str:
            done = subprocess.run(
                argv, cwd=self.folder, env=environ, capture_output=True, text=True, timeout=_CLI_TIMEOUT_S, check=False
            )
            if done.returncode:
                raise LocalRunError(f"synkti {' '.join(arguments)}: status {done.returncode}: {done.stderr.strip()}")
            return done.stdout + (done.stderr if with_errors else "")

        return await asyncio.to_thread(run)

    async def listed_nodes(self) -> dict[str, Any]:
        """Return the document of `synkti nodes --json`. Raises LocalRunError."""
        document: dict[str, Any] = json.loads(await self.command("nodes", "--json"))
        return document


def _request(tokens: int) -> DemoRequest:
    return DemoRequest(True, "Tell me a long story.", tokens)


def require(condition: bool, what: str) -> None:
    """Raise LocalRunError with `what` where the condition is false."""
    if not condition:
        raise LocalRunError(what)


def deployed_user_data(aws: EmbeddedAws, cluster: str) -> str:
    """Return the user data of the deployed launch template, as instances receive it."""
    answer = aws.client("ec2").describe_launch_template_versions(
        LaunchTemplateName=f"{cluster}-node", Versions=["$Latest"]
    )
    return base64.b64decode(answer["LaunchTemplateVersions"][0]["LaunchTemplateData"]["UserData"]).decode()
