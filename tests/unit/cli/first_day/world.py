"""A fleet in memory, in which the steps of the drill run on a fake clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, cast

from cli.core.clusters import Stack
from cli.core.first_day.answers import Answer
from cli.core.first_day.capacity import GroupCapacity
from cli.core.nodes import FleetStatus, Node
from cli.first_day.day import DayOptions, FirstDay
from cli.fleet import Fleet
from cli.terminal import Terminal
from node_agent.contract.capacity import CapacityChange, CapacityRecord
from node_agent.contract.drain_record import DrainRecord
from node_agent.contract.states import NodeState
from node_agent.contract.table_schema import TimelineStep
from tests.unit.cli.fake_clock import FakeClock

BEGAN = 1_764_000_000.0
NODES = ("i-0000000000000000a", "i-0000000000000000b", "i-0000000000000000c")


def node(instance_id: str, purchase_option: str = "spot", state: NodeState = NodeState.READY) -> Node:
    return Node(
        instance_id,
        state,
        "running",
        "g6.xlarge",
        "us-east-1a",
        purchase_option,
        "10.0.0.1",
        None,
        None,
        "v2",
        0.0,
        None,
    )


WHOLE = GroupCapacity(desired=3, maximum=6, present=3, base=0, launches_suspended=False)


@dataclass
class MemoryGroup:
    """The group. interrupt_at: the number of the call that Ctrl-C comes in; calls: what was called."""

    held: GroupCapacity = WHOLE
    interrupt_at: int | None = None
    calls: list[str] = field(default_factory=list)
    lifecycle: dict[str, str] = field(default_factory=dict)
    name: str = "synkti-fleet"

    def _call(self, what: str) -> None:
        self.calls.append(what)
        if self.interrupt_at == len(self.calls):
            raise KeyboardInterrupt

    def capacity(self) -> GroupCapacity:
        self._call("capacity")
        return self.held

    def set_desired(self, desired: int) -> None:
        self.held = replace(self.held, desired=desired)  # also where Ctrl-C comes after the request was sent
        self._call(f"desired {desired}")

    def suspend_launches(self) -> None:
        self.held = replace(self.held, launches_suspended=True)
        self._call("suspend")

    def resume_launches(self) -> None:
        assert self.held.desired == 3, "with launches on, a larger size launches an instance"
        self.held = replace(self.held, launches_suspended=False)
        self._call("resume")

    def set_base(self, base: int) -> None:
        self.held = replace(self.held, base=base)
        self._call(f"base {base}")

    def state_of(self, instance_id: str) -> str:
        return self.lifecycle.get(instance_id, "")

    def hook_timeout_s(self, hook: str) -> float | None:
        return 120.0


@dataclass
class MemoryRecords:
    """The table."""

    change: CapacityRecord | None = None
    steps: dict[str, TimelineStep] = field(default_factory=dict)
    drained: DrainRecord | None = None

    def capacity(self, group: str) -> CapacityRecord | None:
        return self.change

    def timeline(self, instance_id: str) -> dict[str, TimelineStep]:
        return self.steps

    def drain(self, instance_id: str) -> DrainRecord | None:
        return self.drained

    def raised(self, event_id: str, base: int) -> None:
        """What the Lambda records."""
        self.change = CapacityRecord(
            "synkti-fleet", base, 1.0, 2.0, event_id, 1, 0, (CapacityChange(base, 1.0, "no spot"),)
        )


class FakeAccount:
    region = "us-east-1"

    def __init__(self, clients: dict[str, Any], *, is_embedded: bool = False) -> None:
        self.is_embedded = is_embedded
        self._clients = clients

    def client(self, service: str) -> Any:
        return self._clients[service]

    def instance_arn(self, instance_id: str) -> str:
        return f"arn:aws:ec2:us-east-1:123456789012:instance/{instance_id}"


@dataclass
class World:
    """The drill's day, and what its parts are made of."""

    day: FirstDay
    clock: FakeClock
    group: MemoryGroup
    records: MemoryRecords
    nodes: list[Node]


def world(
    clients: dict[str, Any] | None = None, *, embedded: bool = False, outputs: dict[str, str] | None = None
) -> World:
    clock, group, records = FakeClock(), MemoryGroup(), MemoryRecords()
    stacks = (Stack("synkti-fleet", "CREATE_COMPLETE", "synkti", outputs or {}, 0.0),)
    fleet = Fleet(cast(Any, FakeAccount({} if clients is None else clients, is_embedded=embedded)), "synkti", stacks)
    nodes = [node(each) for each in NODES]
    options = DayOptions(yes=True, within_s=1_800.0)

    class Day(FirstDay):
        def status(self) -> FleetStatus:
            return FleetStatus(tuple(nodes), 3, None)

        def is_running(self, instance_id: str) -> bool:
            return any(each.instance_id == instance_id for each in nodes)

        def ready_nodes(self) -> tuple[Node, ...]:
            return tuple(each for each in nodes if each.is_ready)

    day = Day(Terminal(True), fleet, options, clock.clock, lambda: BEGAN + clock.at)
    day.group, day.records = cast(Any, group), cast(Any, records)
    return World(day, clock, group, records, nodes)


@dataclass
class FakeCompletions:
    """A client of the fleet. answers: in their order; the last one again and again."""

    answers: list[Answer]
    on_answer: Callable[[int], None] = lambda number: None
    requested: list[int] = field(default_factory=list)
    closed: bool = False

    def context(self) -> int | None:
        return 4_096

    def answer(self, tokens: int) -> Answer:
        self.requested.append(tokens)
        self.on_answer(len(self.requested))
        found = self.answers[min(len(self.requested), len(self.answers)) - 1]
        return replace(found, tokens=tokens)

    def close(self) -> None:
        self.closed = True
