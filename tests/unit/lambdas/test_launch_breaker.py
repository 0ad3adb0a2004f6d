"""The breaker: nodes that can never serve are not replaced for ever; late, repeated and in any order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambdas.adapters.memory import MemoryBreaker, MemoryGroups, MemoryInstances
from lambdas.adapters.ports import RecordChanged
from lambdas.breaker_events import BreakerDependencies, check_breaker, handle_breaker_event
from lambdas.core.decisions import InstanceDescription
from lambdas.core.launch_breaker import LIMIT, MAX_EVENT_AGE_S, MAX_KEPT, SETTLED_S
from lambdas.core.on_demand_fallback import GroupDescription
from lambdas.environment import CapacityEnvironment
from node_agent.contract.capacity import LAUNCH_FAILED_EVENT, LAUNCH_SUCCEEDED_EVENT
from node_agent.contract.launch_breaker import GAVE_UP_EVENT, BreakerRecord, GiveUp, breaker_from_item
from node_agent.contract.tags import NODE_TAGS
from node_agent.contract.timestamps import format_instant

GROUP = "synkti-fleet"
AT = 1_795_514_400.0
WORDS = "synkti: the engine cannot start: ValueError: 16.0 GiB KV cache is needed"
ABANDONED = "Instance failed to complete user's Lifecycle Action: Lifecycle Action with token x was abandoned"


def node_id(number: int) -> str:
    return f"i-{number:017x}"


def nodes(count: int) -> dict[str, InstanceDescription]:
    tags = {"SynktiCluster": "synkti", "SynktiRole": "worker", "SynktiVersion": "v2"}
    ids = [node_id(number) for number in range(count)]
    return {each: InstanceDescription(each, "us-east-1a", "g6.xlarge", tags) for each in ids}


class World:
    """A group, its nodes, the breaker's record, and a clock."""

    def __init__(self) -> None:
        self.now = AT
        self.groups = MemoryGroups({GROUP: GroupDescription(GROUP, 0, 3, 3, version="v2")})
        self.instances = MemoryInstances(nodes(40))
        self.records = MemoryBreaker()
        environment = CapacityEnvironment("synkti", "synkti-records", GROUP, 0, 2)
        self.dependencies = BreakerDependencies(
            environment, self.groups, self.instances, self.records, lambda: self.now
        )
        self._numbers: Iterator[int] = iter(range(10_000))

    def is_suspended(self) -> bool:
        return self.groups.groups[GROUP].launches_suspended

    def event(self, kind: str, node: int, ago_s: float = 0.0, **detail: str) -> dict[str, Any]:
        return {
            "id": f"e-{next(self._numbers)}",
            "detail-type": kind,
            "time": format_instant(self.now - ago_s),
            "detail": {"AutoScalingGroupName": GROUP, "EC2InstanceId": f"i-{node:017x}", **detail},
        }

    def gave_up(self, node: int, reason: str = WORDS, ago_s: float = 0.0) -> dict[str, str]:
        return handle_breaker_event(self.event(GAVE_UP_EVENT, node, ago_s, Reason=reason), self.dependencies)

    def served(self, node: int) -> dict[str, str]:
        return handle_breaker_event(self.event(LAUNCH_SUCCEEDED_EVENT, node), self.dependencies)

    def check(self) -> dict[str, str]:
        return check_breaker(self.dependencies)

    def deploy(self, version: str) -> None:
        self.groups.groups[GROUP] = replace(self.groups.groups[GROUP], version=version)


@pytest.fixture
def world() -> World:
    return World()


def test_three_nodes_in_a_row_that_gave_up_suspend_launches_and_their_words_are_kept(world: World) -> None:
    assert [world.gave_up(number)["action"] for number in (0, 1)] == ["count", "count"]
    assert not world.is_suspended()
    opened = world.gave_up(2)
    assert opened["action"] == "open"
    assert WORDS in opened["reason"]
    assert world.is_suspended()
    record = world.records.records[GROUP]
    assert (record.fleet_version, record.opened_at) == ("v2", AT)
    assert [each.reason for each in record.give_ups] == [WORDS] * LIMIT
    assert breaker_from_item(record.to_item()) == record


def test_a_node_that_serves_clears_the_count(world: World) -> None:
    for number in (0, 1):
        world.gave_up(number)
    world.now += 60
    assert world.served(9) == {"action": "clear", "reason": "a node of this version serves"}
    for number in (2, 3):
        world.now += 60
        assert world.gave_up(number)["action"] == "count"
    assert not world.is_suspended()


def test_an_instance_counts_once_whoever_reports_it(world: World) -> None:
    world.gave_up(0)
    abandoned = world.event(LAUNCH_FAILED_EVENT, 0, StatusMessage=ABANDONED)
    assert handle_breaker_event(abandoned, world.dependencies)["reason"] == "already counted"
    abandoned = world.event(LAUNCH_FAILED_EVENT, 1, StatusMessage=ABANDONED)
    assert handle_breaker_event(abandoned, world.dependencies)["reason"] == "2 nodes in a row gave up"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"detail-type": "EC2 Instance Terminate Successful"}, "not about a node that gave up or serves"),
        ({"detail-type": LAUNCH_FAILED_EVENT}, "not about a node that gave up or serves"),
        ({"AutoScalingGroupName": "another"}, "another group"),
        ({"EC2InstanceId": "i-0fffffffffffffff0"}, "not a node of this cluster"),
        ({"time": format_instant(AT - MAX_EVENT_AGE_S - 1)}, "older than two hours"),
    ],
)
def test_an_event_that_is_not_about_a_node_of_this_version_changes_nothing(
    change: dict[str, str], reason: str, world: World
) -> None:
    raw = world.event(GAVE_UP_EVENT, 0, Reason=WORDS, StatusMessage="Could not launch Spot Instances.")
    outer = {key: value for key, value in change.items() if key in raw}
    raw = {**raw, **outer, "detail": {**raw["detail"], **{k: v for k, v in change.items() if k not in raw}}}
    assert handle_breaker_event(raw, world.dependencies) == {"action": "ignore", "reason": reason}
    assert world.records.records == {}


def test_a_node_counts_by_the_tags_of_its_group_which_its_agent_does_not_remove(world: World) -> None:
    untagged = {key: value for key, value in nodes(1)[node_id(0)].tags.items() if key not in NODE_TAGS}
    foreign = {**untagged, "SynktiCluster": "another"}
    for number, tags in enumerate((untagged, foreign)):
        world.instances.instances[node_id(number)] = InstanceDescription(
            node_id(number), "us-east-1a", "g6.xlarge", tags
        )
    assert world.gave_up(0)["action"] == "count"
    assert world.gave_up(1)["reason"] == "not a node of this cluster"


def test_nodes_of_an_older_version_do_not_count(world: World) -> None:
    world.deploy("v3")
    for number in range(5):
        assert world.gave_up(number)["reason"] == "a node of another version"
    assert not world.is_suspended()


def test_a_new_version_resumes_launches_and_counts_anew(world: World) -> None:
    for number in range(LIMIT):
        world.gave_up(number)
    assert world.check() == {"action": "ignore", "reason": "version v2 cannot serve"}
    world.deploy("v3")
    assert world.check() == {"action": "close", "reason": "version v3 is deployed"}
    assert not world.is_suspended()
    assert world.records.records[GROUP].give_ups == ()
    assert world.check()["reason"] == "the breaker is closed"


def test_what_an_operator_resumed_is_suspended_again_only_after_three_more(world: World) -> None:
    for number in range(LIMIT):
        world.gave_up(number)
    world.now += SETTLED_S + 1
    world.groups.resume_launches(GROUP)  # synkti resume
    assert [world.gave_up(number)["action"] for number in (10, 11)] == ["count", "count"]
    assert world.check()["reason"] == "the breaker is closed"
    assert world.gave_up(12)["action"] == "open"


def test_launches_that_an_operator_suspended_are_not_resumed(world: World) -> None:
    world.groups.suspend_launches(GROUP)
    world.gave_up(0)
    world.deploy("v3")
    world.check()
    assert world.is_suspended()


def test_a_node_that_serves_after_the_breaker_opened_closes_it(world: World) -> None:
    for number in range(LIMIT):
        world.gave_up(number)
    world.now += 60
    assert world.served(20) == {"action": "close", "reason": "a node of this version serves"}
    assert not world.is_suspended()


def test_a_retry_completes_what_its_first_invocation_recorded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (0, 1):
        world.gave_up(number)
    raw = world.event(GAVE_UP_EVENT, 2, Reason=WORDS)

    def throttled(group: str) -> None:
        raise RuntimeError("Throttling")

    with monkeypatch.context() as patch:
        patch.setattr(world.groups, "suspend_launches", throttled)
        with pytest.raises(RuntimeError, match="Throttling"):
            handle_breaker_event(raw, world.dependencies)
    assert world.check()["reason"] == "version v2 cannot serve", "the invocation may still be retried"
    assert handle_breaker_event(raw, world.dependencies)["reason"] == "completes an earlier decision"
    assert world.is_suspended()
    assert handle_breaker_event(raw, world.dependencies)["reason"] == "already done"


def test_an_open_breaker_outlives_its_records_time_to_live(world: World) -> None:
    for number in range(LIMIT):
        world.gave_up(number)
    world.now += 6 * 24 * 3600
    world.check()
    assert world.records.records[GROUP].expires_at > world.now + 6 * 24 * 3600


def test_an_endless_conflict_fails_the_invocation(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(record: BreakerRecord) -> None:
        raise RecordChanged

    monkeypatch.setattr(world.records, "write", write)
    with pytest.raises(RecordChanged, match="3 times"):
        world.gave_up(0)


@pytest.mark.parametrize("detail", [None, {}, {"AutoScalingGroupName": GROUP, "Reason": "x"}, {"Reason": 7}])
def test_a_malformed_report_fails_the_invocation(detail: object, world: World) -> None:
    raw = {"id": "e", "detail-type": GAVE_UP_EVENT, "time": format_instant(AT), "detail": detail}
    with pytest.raises(ValueError, match=r"expected|missing"):
        handle_breaker_event(raw, world.dependencies)


steps = st.lists(
    st.tuples(st.sampled_from(["gave up", "served", "check", "deploy", "resume", "wait"]), st.integers(0, 39)),
    max_size=40,
)


@given(steps)
def test_launches_are_suspended_only_after_three_in_a_row_and_never_for_a_new_version(
    taken: list[tuple[str, int]],
) -> None:
    world, row, deployed = World(), set[int](), 2
    for step, node in taken:
        was = world.is_suspended()
        match step:
            case "gave up":
                world.gave_up(node)
                row |= {node} if deployed == 2 else set()
            case "served":
                world.now += 1
                world.served(node)
                row = row if deployed != 2 else set()
            case "check":
                world.check()
            case "deploy":
                deployed += 1
                world.deploy(f"v{deployed}")
            case "resume":
                world.groups.resume_launches(GROUP)
            case _:
                world.now += 60 * node
        if world.is_suspended() and not was:
            assert len(row) >= LIMIT
        record = world.records.find(GROUP)
        assert record is None or len(record.give_ups) <= MAX_KEPT
    deployed += 1
    world.deploy(f"v{deployed}")
    world.check()
    assert not world.is_suspended(), "whatever happened, the next version is launched"


def test_a_give_up_has_the_instance_its_time_and_its_reason(world: World) -> None:
    world.gave_up(0, reason="x" * 1_000, ago_s=5)
    assert world.records.records[GROUP].give_ups == (GiveUp("i-" + "0" * 17, AT - 5, "x" * 400),)
