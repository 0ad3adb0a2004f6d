"""The emulator of an Auto Scaling group: launches, updates, and nodes that end."""

from __future__ import annotations

import asyncio
import itertools
import socket
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local import emulated_instance, imds
from local.ec2_emulator import (
    MAX_BOOT_FAILURES,
    MAX_LAUNCHES,
    Ec2Emulator,
    GroupAction,
    InstanceView,
    is_failure,
    plan_group,
)
from local.emulated_instance import EmulatedInstance
from local.errors import LocalRunError, UserActionRequired
from local.imds import InstanceMetadata
from node_agent.contract.tags import EMULATED_END_TAG, EMULATED_REPLACE, EMULATED_SHRINK
from node_agent.settings import from_environ


def seen(*names: str, current: bool = True, is_ready: bool = True) -> list[InstanceView]:
    return [InstanceView(name, current, is_ready) for name in names]


@given(st.integers(0, 20), st.integers(0, 20), st.integers(0, MAX_LAUNCHES), st.integers(0, 3))
def test_the_group_launches_missing_instances_within_the_runs_bound(
    desired: int, alive: int, launched: int, leaving: int
) -> None:
    step = plan_group(desired, seen(*(f"i-{number}" for number in range(alive))), leaving, launched)
    assert 0 <= step.launch <= MAX_LAUNCHES - launched
    assert not (step.launch and step.terminate)
    after = alive + step.launch - len(step.terminate)
    assert after <= desired
    if launched + desired <= MAX_LAUNCHES:
        assert after == desired


def test_of_too_many_instances_the_oldest_are_terminated() -> None:
    assert plan_group(1, seen("i-old", "i-middle", "i-new"), 0, 3) == GroupAction(0, ("i-old", "i-middle"))


def test_an_update_replaces_one_instance_after_another_the_new_one_first() -> None:
    old = seen("i-1", "i-2", current=False)
    assert plan_group(2, old, 0, 2) == GroupAction(1, ()), "a third one comes first"
    assert plan_group(2, [*old, *seen("i-3", is_ready=False)], 0, 3) == GroupAction(0, ()), "it has to serve"
    assert plan_group(2, [*old, *seen("i-3")], 0, 3) == GroupAction(0, ("i-1",))
    assert plan_group(2, [*old[1:], *seen("i-3")], 1, 3) == GroupAction(1, ()), "its successor comes at once"
    assert plan_group(2, [*old[1:], *seen("i-3", "i-4")], 1, 4) == GroupAction(0, ()), "the first one has to be gone"
    assert plan_group(2, [*old[1:], *seen("i-3", "i-4")], 0, 4) == GroupAction(0, ("i-2",))
    assert plan_group(2, seen("i-3", "i-4"), 1, 4) == GroupAction(0, ())


@given(st.integers(1, 8), st.integers(0, 8), st.randoms(use_true_random=False))
def test_an_update_ends_and_never_has_too_few(desired: int, outdated: int, random: Random) -> None:
    """Each turn the plan is carried out; nodes start to serve, and leave, when they like."""
    nodes = [InstanceView(f"i-{number}", is_current=number >= outdated) for number in range(desired)]
    leaving, launched = 0, desired
    for _ in range(400):
        step = plan_group(desired, nodes, leaving, launched)
        for _ in range(step.launch):
            nodes.append(InstanceView(f"i-{launched}", is_ready=False))
            launched += 1
        nodes = [node for node in nodes if node.instance_id not in step.terminate]
        leaving += len(step.terminate)
        assert leaving <= 1
        assert sum(node.is_ready for node in nodes) >= desired
        nodes = [replace(node, is_ready=node.is_ready or random.random() < 0.5) for node in nodes]
        leaving -= int(leaving and random.random() < 0.5)
        if all(node.is_current and node.is_ready for node in nodes) and not leaving:
            break
    assert [node.is_current for node in nodes] == [True] * desired


def test_an_update_of_a_stopped_fleet_launches_nothing() -> None:
    assert plan_group(0, [], 0, 3) == GroupAction(0, ())
    assert plan_group(0, seen("i-1", current=False), 0, 3) == GroupAction(0, ("i-1",))


def test_a_port_that_is_taken_on_all_addresses_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        monkeypatch.setattr(emulated_instance, "PORTS", (port,))
        with pytest.raises(UserActionRequired, match=f"listens on port {port} of all addresses"):
            emulated_instance.free_network()
    assert emulated_instance.free_network().startswith("127.")


def test_no_server_of_an_emulated_instance_has_anothers_port() -> None:
    """All listen on the instance's one address: the agent's four, whose ports its settings have, and IMDS."""
    agent = from_environ({"SYNKTI_MODEL_NAME": "m", "SYNKTI_MODEL_DIR": "/m"})
    ports = [agent.front.port, agent.peer.port, agent.engine.address.port, agent.admin.port, imds.PORT]
    assert len(set(ports)) == len(ports)
    assert ports == list(emulated_instance.PORTS), "those that a run requires to be free"


@pytest.mark.parametrize("number", [9, 15, 2, 1, 3])
def test_a_node_that_is_killed_from_outside_is_no_failure_of_nodes(number: int) -> None:
    assert not is_failure(-number, served=False)


def test_only_nodes_that_end_before_they_serve_cannot_start() -> None:
    assert [is_failure(status, served=False) for status in (0, 1, -11)] == [False, True, True]
    assert not is_failure(1, served=True)


_numbers = itertools.count(1)


class _FakeInstance:
    """A fake instance; its calls do nothing."""

    def __init__(self, number: int, status: int | None, is_ready: bool = False) -> None:
        self.instance_id = f"i-{number}"
        self.metadata = InstanceMetadata("i-1", "us-east-1a", "us-east-1", "g5.xlarge", "127.0.0.9")
        self.killed = False
        self.status = status
        self.log = Path("a log")
        self._serves = is_ready
        self.termination_requested = False

    def scale_in(self) -> None:
        self.termination_requested = True

    @property
    def running(self) -> bool:
        return self.status is None

    def wait(self) -> int | None:
        return self.status

    def is_ready(self) -> bool:
        return self._serves

    def close(self) -> None:
        pass


class _Aws:
    """A fake AWS. ends: the tags by which ends are requested, by instance id; desired: the group's capacity."""

    def __init__(self, ends: dict[str, str] | None = None, desired: int = 3) -> None:
        self.ends = ends or {}
        self.desired = desired

    def describe_instances(self, **request: object) -> dict[str, Any]:
        tagged = [
            {"InstanceId": each, "Tags": [{"Key": "a", "Value": "b"}, {"Key": EMULATED_END_TAG, "Value": how}]}
            for each, how in self.ends.items()
        ]
        return {"Reservations": [{"Instances": tagged}, {"Instances": [{"InstanceId": "i-none"}]}]}

    def describe_auto_scaling_groups(self, **request: object) -> dict[str, Any]:
        return {"AutoScalingGroups": [{"DesiredCapacity": self.desired}]}

    def update_auto_scaling_group(self, **request: Any) -> None:
        self.desired = request["DesiredCapacity"]

    def client(self, name: str) -> _Aws:
        return self

    def put_events(self, **request: object) -> None:
        pass

    def terminate_instances(self, **request: object) -> None:
        pass


async def _end_instance(emulator: Ec2Emulator[EmulatedInstance], status: int, is_ready: bool = False) -> None:
    instance = _FakeInstance(next(_numbers), None, is_ready)
    emulator.instances.append(instance)  # type: ignore[arg-type] # a fake
    await emulator._update_ready()
    instance.status = status
    await emulator._remove(instance)  # type: ignore[arg-type]


def _emulator(aws: _Aws | None = None) -> Ec2Emulator[EmulatedInstance]:
    return Ec2Emulator(aws or _Aws(), "group", _boot, "127.1.1", lambda text: None)  # type: ignore[arg-type]


def _boot(metadata: InstanceMetadata, version: str) -> EmulatedInstance:
    raise AssertionError("nothing is launched")


@pytest.mark.parametrize(("how", "desired"), [(EMULATED_REPLACE, 3), (EMULATED_SHRINK, 2)])
def test_an_instance_that_is_to_be_drained_is_terminated_once(how: str, desired: int) -> None:
    async def scenario() -> None:
        kept, drained = _FakeInstance(1, None), _FakeInstance(2, None)
        aws = _Aws({"i-2": how, "i-of-another-run": how})
        emulator = _emulator(aws)
        emulator.instances += [kept, drained]  # type: ignore[list-item] # fakes
        for _ in range(2):
            await emulator._end_requested()
        assert (kept.termination_requested, drained.termination_requested) == (False, True)
        assert aws.desired == desired
        for task in emulator._termination_tasks:
            task.cancel()

    asyncio.run(scenario())


def test_agents_can_be_killed_any_number_of_times_and_the_run_stays() -> None:
    async def scenario() -> None:
        emulator = _emulator()
        for is_ready in (True, False) * (2 * MAX_BOOT_FAILURES) + (False,) * (2 * MAX_BOOT_FAILURES):
            await _end_instance(emulator, -9, is_ready)
        for _ in range(2 * MAX_BOOT_FAILURES):
            await _end_instance(emulator, 1, is_ready=True)

    asyncio.run(scenario())


def test_nodes_that_end_before_they_serve_end_the_run_unless_one_served_between() -> None:
    async def scenario() -> None:
        emulator = _emulator()
        for _ in range(MAX_BOOT_FAILURES - 1):
            await _end_instance(emulator, 1)
        await _end_instance(emulator, -9, is_ready=True)
        for _ in range(MAX_BOOT_FAILURES - 1):
            await _end_instance(emulator, 1)
        with pytest.raises(LocalRunError, match="nodes end before they serve"):
            await _end_instance(emulator, 1)

    asyncio.run(scenario())
