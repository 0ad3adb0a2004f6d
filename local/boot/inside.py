"""The run itself, in namespaces of its own: PID 1 there, so that its end is the end of every process of the run.

Started by local/boot/__main__, which has its options.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shlex
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from rich.console import Console

from local.aws import ACCOUNT, REGION, EmbeddedAws
from local.boot.aws_gateway import AwsGateway, Certificates, service_hosts
from local.boot.cgroups import ContainerGroups
from local.boot.commands import call
from local.boot.container import hide_leftovers
from local.boot.cpython import PIN
from local.boot.machine import BootedInstance, LaunchMetadata, MachineTemplate
from local.boot.model import write_model
from local.boot.network import GATEWAY, NETWORK, create_bridge
from local.boot.packages import upload_packages
from local.boot.parts import VLLM_PART
from local.boot.run_parts import run_parts
from local.boot.scene import SETTINGS, Scene, deployed_user_data
from local.boot.summary import OUTCOMES, format_summary, not_shown
from local.demo.screen import Screen
from local.deploy import deploy
from local.ec2_emulator import Ec2Emulator
from local.engines import MODEL
from local.errors import LocalRunError
from node_agent.contract.names import checkpoints_bucket_name, models_bucket_name
from stacks.endpoints import GATEWAY_SERVICES, INTERFACE_SERVICES

_WIDTH = 120
_ROLE = "synkti-node"


def main() -> int:
    """Run the parts; return 0 if all passed."""
    options = _options()
    console = Console()
    screen = Screen(console if console.is_terminal else Console(width=_WIDTH))
    try:
        return 0 if asyncio.run(_run(options, screen)) else 1
    except LocalRunError as error:
        screen.log(str(error), style="bold red")
        return 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    for name in ("--root", "--packages", "--folder", "--logs", "--pin"):
        parser.add_argument(name, type=Path, required=True)
    for name in ("--downloads", "--vllm", "--model"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--python", default="", help="what is in the place of the release's CPython")
    parser.add_argument("--without-vllm", default="the part that boots it was left out", help="why it is")
    parser.add_argument("--cgroups", required=True)
    parser.add_argument("--group", required=True)
    parser.add_argument("parts", nargs="+")
    return parser.parse_args()


async def _run(options: argparse.Namespace, screen: Screen) -> bool:
    screen.heading("Synkti on instances that boot")
    hide_leftovers()
    if options.pin != PIN:  # in this mount namespace only
        call(["mount", "--bind", str(options.pin), str(PIN)])
    create_bridge()
    options.folder.mkdir(parents=True, exist_ok=True)
    groups = ContainerGroups(options.cgroups, options.group)
    aws = EmbeddedAws(options.folder, options.logs)
    await asyncio.to_thread(aws.wait)
    deployed = await asyncio.to_thread(partial(deploy, aws, options.folder, more=SETTINGS))
    screen.log("deployed to the embedded AWS: the stacks state, fleet and events")
    buckets = [name(deployed.cluster, ACCOUNT, REGION) for name in (models_bucket_name, checkpoints_bucket_name)]
    user_data = deployed_user_data(aws, deployed.cluster)
    hosts = service_hosts(REGION, [*GATEWAY_SERVICES, *INTERFACE_SERVICES], [*buckets, _assets_bucket(user_data)])
    certificates = await asyncio.to_thread(Certificates, options.folder / "certificates", hosts)
    gateway = AwsGateway(aws.endpoint, certificates)
    await gateway.start(GATEWAY)
    environ = aws.environ()
    metadata = LaunchMetadata(user_data, _ROLE, environ["AWS_ACCESS_KEY_ID"], environ["AWS_SECRET_ACCESS_KEY"])
    authority = certificates.authority.read_text()
    template = MachineTemplate(
        options.root, options.folder / "nodes", options.logs, groups, hosts, authority, metadata,
        options.downloads.read_text() if options.downloads else "", options.vllm,
    )  # fmt: skip
    await asyncio.to_thread(upload_packages, aws.client("s3"), buckets[0], options.packages)
    screen.log("uploaded: the packages that nodes install")
    boot = partial(BootedInstance, template)
    emulator = Ec2Emulator(aws, deployed.auto_scaling_group, boot, NETWORK, screen.log, is_private=True)
    async with httpx.AsyncClient(timeout=5) as http:
        scene = Scene(aws, deployed.cluster, emulator, template, screen, options.folder, http)
        model = options.model or write_model(options.folder / "model")
        await scene.command("model", "push", str(model), "--name", MODEL, "--unchecked")
        screen.log(f"pushed: the model {MODEL!r}")
        scene.api_key = await scene.create_key("boot")
        outcomes = await run_parts(scene, options.parts)
    (options.logs / OUTCOMES).write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=1) + "\n")
    screen.heading("Summary")
    without_vllm = "" if VLLM_PART in options.parts else options.without_vllm
    unshown = [*not_shown(options.python, options.cgroups, without_vllm), *scene.unshown]
    screen.print_text(format_summary(template.booted, outcomes, unshown))
    passed = all(outcome.passed for outcome in outcomes)
    screen.log("all parts passed" if passed else "not all parts passed", style="bold green" if passed else "bold red")
    return passed


def _assets_bucket(user_data: str) -> str:
    """Return the bucket of the agent's archive, which the user data names. Raises ValueError where it does not."""
    (line,) = [line for line in user_data.splitlines() if line.startswith("SYNKTI_AGENT_URL=")]
    (variable,) = shlex.split(line)
    return urlsplit(variable.partition("=")[2]).netloc


if __name__ == "__main__":
    os.umask(0o022)  # a container's files have to be readable by its users
    sys.exit(main())
