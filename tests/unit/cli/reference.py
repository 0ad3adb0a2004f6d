"""docs/cli.md, made of the commands' own help and of what they print: `python -m tests.unit.cli.reference` writes it.

The examples are the real commands against an AWS in memory; what differs from run to run (ids, addresses) is replaced
by fixed values. A test compares, so that the page cannot rot.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws

from cli import (
    bootstrap,
    destroy,
    drill_first_day,
    events,
    keys,
    logs,
    model,
    nodes,
    plan,
    status,
    streams,
    top,
    wheelhouse,
)
from cli.account import Account
from cli.adapters import account_facts, doctor_collector
from cli.adapters.instances import Instances
from cli.adapters.node_metrics import NodeMetrics
from cli.core.node_figures import NodeFigures
from cli.core.nodes import Node
from cli.exit_codes import DESCRIPTIONS
from cli.main import main
from node_agent.contract.drain_record import DrainRecord, DrainStep
from node_agent.contract.names import cluster_key_secret_name, table_name
from node_agent.contract.open_streams import OpenStream, OpenStreams
from node_agent.contract.ownership import Ownership
from node_agent.contract.states import NodeState
from node_agent.contract.table_schema import NodeRecord, StreamStatus, TimelineStep
from node_agent.core.common.cluster_keys import ClusterKeySet, cluster_key
from stacks.settings import SETTINGS_FILE
from tests.unit.cli import weights
from tests.unit.cli.conftest import REGION, DeployedFleet, make_state
from tests.unit.cli.fake_clock import FakeClock
from tests.unit.cli.memory_cdk import MemoryCdk
from tests.unit.cli.memory_cloudformation import MemoryCloudFormation
from tests.unit.cli.test_connect_and_logs import MemorySsm
from tests.unit.cli.test_streams import table_with_index
from tests.unit.core.sizing.models import LLAMA_3_1_8B, WEIGHTS

PAGE = Path(__file__).parents[3] / "docs" / "cli.md"
WIDTH = 100
_IDS = ("i-0d3c5a1f9b7e24680", "i-07b2e94c61fa83d55", "i-0f86a1d2b3c4e5f67")
_LOST = "i-0a44e1c93bd27f608"
_NOW = 1_764_000_000.0
_ADDRESSES = ("3.91.24.7", "44.203.118.52")
_PRICES = {"g6.xlarge": 0.322, "g5.xlarge": 0.401, "g6.2xlarge": 0.391, "g5.2xlarge": 0.486, "g6e.xlarge": 0.745}
"""Examples: EC2's own change by the hour."""

_ZONES = ("us-east-1a", "us-east-1c")

_INTRO = """# The `synkti` command

<!-- Made by `python -m tests.unit.cli.reference`; a test fails where it differs from the commands. -->

```
pipx install .          # or: uv tool install .
synkti --help
```

In a checkout `make setup` makes `.venv/bin/synkti`, which runs what is checked out.

It needs Python 3.11+; `doctor`, `bootstrap` and deployments need Node 20+ as well (the CDK's command-line tool runs
on it, from `node_modules` in a checkout, through `npx` elsewhere). Install it into an environment of its own, as both
lines do: an application that only wants to survive the loss of nodes takes `synkti_client` (docs/clients.md).

**Completion:** `synkti --install-completion` adds it to the configuration of your shell (bash, zsh, fish, PowerShell);
`synkti --show-completion` prints it, to be put there by hand. It completes commands and options. `-h` is `--help`.

**Which AWS:** credentials, profile and region as every AWS tool finds them; `--profile` and `--region` go above that,
`region` in `synkti.toml` between. **Which cluster:** `--cluster`, then `SYNKTI_CLUSTER`, then `cluster` in the
`synkti.toml` of the working directory, then the only one that there is. Where there are several and none is named,
nothing is done (exit code 5).

**What is written where:** results go to standard output, what happens meanwhile to standard error. With `--json` there
is one document on standard output and nothing else; an error is a document as well, `{"error": {"code", "exit_code",
"message", "advice"}}`. Colour and moving bars are for terminals, and `NO_COLOR` is honoured.

**An AWS on this machine:** where `AWS_ENDPOINT_URL` leads to this machine the commands work against it, and deploy the
templates for the embedded AWS (docs/architecture.md lists the differences).
"""

_OUTRO = """
## Exit codes

The same for every command.

| code | `error.code` | meaning |
|---|---|---|
"""


def page() -> str:
    """The whole of docs/cli.md."""
    parts = [_INTRO]
    with _world() as world:
        for title, argv, examples in world.commands():
            parts.append(f"\n## `synkti {' '.join(argv) or title}`\n\n```\n{_help(argv)}\n```\n")
            parts += [f"\n```\n{example}\n```\n" for example in examples]
    table = [f"| {int(code)} | `{code.label}` | {meaning} |\n" for code, meaning in DESCRIPTIONS.items()]
    return "".join([*parts, _OUTRO, *table])


def _help(argv: Sequence[str]) -> str:
    return _output_of([*argv, "--help"]).strip()


def _output_of(argv: Sequence[str]) -> str:
    """Return both outputs of a command together, as on a terminal."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        main(list(argv))
    return output.getvalue()


class _Fixed:
    """Replaces what differs from run to run, the same value for the same thing."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self._ids = iter(_IDS)
        self._known: dict[str, str] = {}

    def text(self, output: str) -> str:
        output = output.replace(self._folder, ".")
        output = re.sub(r"\bi-[0-9a-f]{17}\b", lambda match: self._one(match[0]), output)
        output = re.sub(
            r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "6fd1a7e2-0c55-4c0e-9f57-2b9d4c6a1e03", output
        )
        output = re.sub(r"(sk-synkti-[0-9a-f]{12})-[0-9a-f]{64}", r"\1-...", output)
        return "\n".join(line.rstrip() for line in output.strip().splitlines())

    def _one(self, found: str) -> str:
        if found not in self._known:
            self._known[found] = next(self._ids)
        return self._known[found]


class _World:
    """A model on the disk, and an AWS in memory in which everything happens in the order of the page."""

    def __init__(self, cloudformation: MemoryCloudFormation, folder: Path, began: float) -> None:
        self.began = began
        self._cloudformation = cloudformation
        self._fixed = _Fixed(folder)
        self.journal = MemorySsm("", "")

    def _example(self, *argv: str) -> str:
        return self._fixed.text(f"$ synkti {' '.join(argv)}\n{_output_of(argv)}")

    def commands(self) -> Iterator[tuple[str, tuple[str, ...], list[str]]]:
        """Title, words of the command, and its examples."""
        yield "", ("init",), [self._init()]
        yield "", ("doctor",), [self._example("doctor", "--no-templates")]
        boto3.client("ssm").put_parameter(Name=doctor_collector.TOOLKIT_PARAMETER, Value="30", Type="String")
        doctor_collector._quotas = lambda account, types: {"L-3819A6DF": 64.0, "L-DB2E81BA": 64.0}
        make_state(self._cloudformation, "synkti")
        pushing = self._example("model", "push", "./llama-3.1-8b", "--name", "model")
        yield "", ("bootstrap",), [self._example("bootstrap", "--yes")]
        fleet = self._fleet()
        first = fleet.ids[0]
        streams = self._streams(*fleet.ids)
        yield "", ("status",), [self._example("status")]
        yield "", ("nodes",), [self._example("nodes")]
        yield "", ("top",), [self._example("top", "--once")]
        yield "", ("streams",), [streams]
        yield "", ("events",), [self._events()]
        yield "", ("certificate",), [self._example("certificate")]
        yield "", ("keys", "create"), [self._example("keys", "create", "chat", "--streams", "20", "--expires", "90d")]
        yield "", ("keys", "list"), [self._example("keys", "list")]
        yield "", ("keys", "rotate"), [self._example("keys", "rotate", "chat", "--overlap", "1h")]
        yield "", ("keys", "revoke"), [self._example("keys", "revoke", "chat")]
        yield "", ("endpoint",), [self._example("endpoint")]
        yield "", ("connect",), [self._example("connect", first, "--forward", "8000:8000", "--json")]
        yield "", ("logs",), [self._example("logs", first, "--lines", "3")]
        yield "", ("drill", "node"), [self._example("drill", first, "--yes")]
        example = self._example("drill", "first-day", "--step", "fleet", "--step", "alarm", "--step", "fallback")
        yield "", ("drill", "first-day"), [example]
        yield "", ("drain",), [self._example("drain", first, "--yes")]
        yield "", ("shut-out",), [self._shut_out(fleet.ids[1])]
        yield "", ("cluster-key", "status"), [self._cluster_key()]
        yield "", ("cluster-key", "rotate"), []
        yield "", ("scale",), [self._example("scale", "5")]
        yield "", ("stop",), [self._example("stop", "--yes")]
        suspend = boto3.client("autoscaling").suspend_processes
        suspend(AutoScalingGroupName=fleet.group, ScalingProcesses=["Launch"])
        yield "", ("resume",), [self._example("resume")]
        listed = self._example("model", "ls")
        yield "", ("model", "push"), [pushing]
        yield "", ("model", "ls"), [listed]
        yield "", ("model", "rm"), [self._example("model", "rm", "model", "--yes", "--force")]
        yield "", ("wheelhouse",), [self._example("wheelhouse")]
        yield "", ("destroy",), [self._example("destroy", "--yes")]
        yield "", ("plan",), [self._example("plan", "./Llama-3.1-8B-Instruct")]
        yield "", ("cost",), [self._example("cost", "--prices", "file")]
        yield "", ("gateway",), []

    def _init(self) -> str:
        """A file that the other examples do not see: they show the defaults."""
        example = self._example("init", "--model", "Qwen/Qwen2.5-7B-Instruct-AWQ", "--instance-types", "g4dn.xlarge")
        Path(SETTINGS_FILE).unlink()
        return example

    def _shut_out(self, node: str) -> str:
        example = self._example("shut-out", node, "--yes")
        _output_of(("shut-out", node, "--undo"))
        return example

    def _cluster_key(self) -> str:
        """A rotation that waits for nodes which have not read its first step."""
        keys = ClusterKeySet(cluster_key(b"the first key"), next=cluster_key(b"the next key"))
        name = cluster_key_secret_name("synkti")
        boto3.client("secretsmanager").create_secret(Name=name, SecretString=keys.to_document())
        return self._example("cluster-key", "status")

    def _streams(self, first: str, second: str) -> str:
        """A stream that is open at a node, and one that a lost node has left."""
        table, now = table_with_index(), self.began
        mine = OpenStream("5b1f07c2a94e8d3360f1b7e2", 1, first, 412, now + 200, (second,))
        addresses = {second: "10.0.1.9:8001"}
        table.put_item(Item=OpenStreams(first, 7, (mine,), int(now) + 999, addresses).to_item())
        lost = Ownership(
            "c04d9a61be72f5183d90ea4b", 1, _LOST, StreamStatus.ORPHANED, 97, now, now + 80,
            int(now) + 999, addresses,
        )  # fmt: skip
        table.put_item(Item=lost.to_item())
        return self._example("streams")

    def _events(self) -> str:
        """What happened to a node that EC2 took."""
        steps = [
            TimelineStep("started", "agent", _NOW - 7_200),
            TimelineStep("ready", "agent", _NOW - 7_075),
            TimelineStep("interruption-notice", "eventbridge", _NOW - 600),
            TimelineStep("notice-seen", "imds", _NOW - 599.6),
            TimelineStep("drained", "agent", _NOW - 561.2),
            TimelineStep("terminated", "eventbridge", _NOW - 520),
        ]
        moved = DrainStep("handed-off", _NOW - 598.8, 14)
        record = NodeRecord(_LOST, "z", "t", NodeState.GONE, 1, 2**40, {step.key: step for step in steps})
        for item in (record.to_item(), DrainRecord(_LOST, 1, "notice-seen", _NOW - 480, 2**40, (moved,)).to_item()):
            boto3.resource("dynamodb").Table(table_name("synkti")).put_item(Item=item)
        return self._example("events", "--node", _LOST)

    def _fleet(self) -> DeployedFleet:
        """The fleet that bootstrap has made, drills on, a node that drains in it."""
        ec2 = boto3.client("ec2")
        found = [i for r in ec2.describe_instances()["Reservations"] for i in r["Instances"]]
        found.sort(key=lambda instance: (instance["LaunchTime"], instance["InstanceId"]))
        ids = tuple(instance["InstanceId"] for instance in found)
        self.journal.instance_id = ids[0]
        self.journal.output = (
            "2026-11-24T10:02:11+0000 ip-10-71-3-9 synkti-boot[812]: [96.20 s] synkti: the agent starts\n"
            "2026-11-24T10:03:40+0000 ip-10-71-3-9 synkti[1203]: the engine answers\n"
            "2026-11-24T10:03:40+0000 ip-10-71-3-9 synkti[1203]: ready\n"
        )
        pattern = '{"source": ["aws.ec2", "synkti.drill"]}'
        boto3.client("events").put_rule(Name="synkti-events-node-interrupted", EventPattern=pattern)
        return DeployedFleet(self._cloudformation, "synkti", "synkti-fleet", ids)


class _Counted:
    """Replaces random bytes: keys have ids that stay the same."""

    def __init__(self) -> None:
        self._count = itertools.count(1)

    def token_bytes(self, size: int) -> bytes:
        return hashlib.sha256(b"%d" % next(self._count)).digest()[:size]


@contextlib.contextmanager
def _world() -> Iterator[_World]:
    cloudformation = MemoryCloudFormation()
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch, mock_aws():
        folder = Path(name)
        world = _World(cloudformation, folder, time.time())
        (folder / "llama-3.1-8b").mkdir()
        for path, body in weights.model().items():
            (folder / "llama-3.1-8b" / path).write_bytes(body)
        _documents(folder / "Llama-3.1-8B-Instruct")
        patch.setattr(plan, "spot_prices", lambda ec2, types, now: _PRICES)
        patch.chdir(folder)
        _environment(patch, folder)
        _time(patch, world.began)
        MemoryCdk.ran, MemoryCdk.cloudformation, MemoryCdk.fails = [], cloudformation, ""
        patch.setattr(bootstrap, "Cdk", MemoryCdk)
        for module in (bootstrap, status):
            patch.setattr(module, "is_reachable", lambda url: True)
        patch.setattr(NodeMetrics, "read", _figures)
        patch.setattr(account_facts, "_volumes_key", lambda ec2: "")  # moto has none
        for module in (bootstrap, wheelhouse):  # nothing is downloaded for a page
            patch.setattr(module, "push_packages", lambda *_, **__: [])
        patch.setattr(account_facts, "_newest_image", lambda ssm: "ami-0123456789abcdef0")  # moto has none
        patch.setattr(doctor_collector, "_quotas", lambda account, types: {"L-3819A6DF": 0.0, "L-DB2E81BA": 64.0})
        patch.setattr(doctor_collector, "node_version", lambda: 22)
        patch.setattr(shutil, "which", lambda program: None)
        _spot_in_several_zones(patch)
        _clients(patch, cloudformation, world)
        yield world


def _figures(self: NodeMetrics, nodes: Sequence[Node]) -> dict[str, NodeFigures]:
    """Metrics of nodes that are in use, and have continued some streams. Each look is a fixed time after the last."""
    look = vars(self).setdefault("looks", itertools.count(1)).__next__()
    return {
        node.instance_id: NodeFigures(
            streams=7 + number, running=6, kv_use=0.31, tokens=48_000 + 900 * look, continued={"peer_dead": 14},
            resumed={"taken": 2}, moved=2, pauses={0.1: 9, 0.25: 14, float("inf"): 14},
        )
        for number, node in enumerate(nodes)
    }  # fmt: skip


def _documents(folder: Path) -> None:
    """What `synkti plan` reads of a model; the weights are not needed."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA_3_1_8B))
    index = {"metadata": {"total_size": WEIGHTS["llama"]}, "weight_map": {"w": "model-00001-of-00004.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _environment(patch: pytest.MonkeyPatch, folder: Path) -> None:
    for name in [name for name in os.environ if name.startswith(("AWS_", "SYNKTI_", "HF_"))]:
        patch.delenv(name)
    given = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": REGION}
    terminal = {"COLUMNS": str(WIDTH), "TERMINAL_WIDTH": str(WIDTH), "NO_COLOR": "1", "TERM": "dumb"}
    for name, value in {**given, **terminal, "XDG_CACHE_HOME": str(folder / "cache")}.items():
        patch.setenv(name, value)


def _time(patch: pytest.MonkeyPatch, began: float) -> None:
    """Looks come minutes after what they look at, and nobody waits."""
    clock = FakeClock().clock
    for module in (nodes, logs, destroy, bootstrap, drill_first_day, top):
        patch.setattr(module, "CLOCK", clock)

    class Later:
        monotonic = staticmethod(time.monotonic)

        @staticmethod
        def time() -> float:
            return began + 270  # whatever the machine takes: 4 min

    for module in (nodes, model, streams, status, top):
        patch.setattr(module, "time", Later)

    class Fixed:
        @staticmethod
        def time() -> float:
            return _NOW

    for module in (drill_first_day, keys, events):
        patch.setattr(module, "time", Fixed)
    patch.setattr(keys, "secrets", _Counted())

    class Still:
        @staticmethod
        def monotonic() -> float:
            return 0.0

    patch.setattr(destroy, "time", Still)


def _spot_in_several_zones(patch: pytest.MonkeyPatch) -> None:
    """An EC2 that moto does not play: spot, in several zones, at addresses that stay the same."""
    real = Instances.nodes

    def seen(self: Instances) -> tuple[Node, ...]:
        found = zip(real(self), itertools.cycle(_ZONES), itertools.cycle(_ADDRESSES), strict=False)
        return tuple(
            replace(node, purchase_option="spot", zone=zone, public_address=address) for node, zone, address in found
        )

    patch.setattr(Instances, "nodes", seen)


def _clients(patch: pytest.MonkeyPatch, cloudformation: MemoryCloudFormation, world: _World) -> None:
    real = Account._client

    def client(self: Account, service: str, connections: int = 10) -> Any:
        known: dict[str, Any] = {"cloudformation": cloudformation}
        if service == "ssm" and world.journal.instance_id:
            known["ssm"] = world.journal
        return known.get(service) or real(self, service, connections)

    patch.setattr(Account, "_client", client)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
