"""The on-demand fallback as a model: any sequence of launches, failures, checks, retries and other people's changes.

Invariants: no decision sets a base outside of its bounds; and from every state, once spot launches no longer fail, the
base is that of the deployment again within a bounded time, although the group is complete and launches nothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from lambdas.adapters.memory import MemoryCapacity, MemoryGroups, MemoryInstances
from lambdas.core.decisions import InstanceDescription
from lambdas.core.fallback_return import QUIET_S, STEP_S
from lambdas.core.on_demand_fallback import GroupDescription
from lambdas.environment import CapacityEnvironment
from lambdas.launch_events import LaunchDependencies, handle_check, handle_launch_event
from node_agent.contract.capacity import LAUNCH_FAILED_EVENT, LAUNCH_SUCCEEDED_EVENT, SCHEDULED_EVENT
from node_agent.contract.timestamps import format_instant
from tests.generated import examples

GROUP = "synkti-fleet"
SPOT, ON_DEMAND = "i-00000000000000001", "i-00000000000000002"
NO_SPOT = "Could not launch Spot Instances. UnfulfillableCapacity - no Spot capacity available"
CHECK_S = 300.0


class ApiUnavailable(Exception):
    """Auto Scaling does not answer."""


class Groups(MemoryGroups):
    """Records every base that is set, and fails while `unavailable`."""

    unavailable = False
    given: list[int]

    def set_on_demand_base(self, group: str, base: int) -> None:
        if self.unavailable:
            raise ApiUnavailable
        super().set_on_demand_base(group, base)
        self.given.append(base)


class Fallback(RuleBasedStateMachine):
    """A group, its record, and EventBridge, which delivers late and more than once."""

    @initialize(base=st.integers(0, 3), limit=st.integers(0, 6), desired=st.integers(0, 6))
    def deploy(self, base: int, limit: int, desired: int) -> None:
        self.now = 1_000_000.0
        self.minimum, self.limit = base, limit
        self.groups = Groups({GROUP: GroupDescription(GROUP, base, desired, desired)})
        self.groups.given = []
        seen = {each: InstanceDescription(each, "us-east-1a", "g5.xlarge", {}) for each in (SPOT, ON_DEMAND)}
        self.dependencies = LaunchDependencies(
            CapacityEnvironment("synkti", "records", GROUP, base, limit),
            self.groups,
            MemoryInstances(seen, frozenset({SPOT})),
            MemoryCapacity(),
            lambda: self.now,
        )
        self.sent: list[dict[str, Any]] = []

    @property
    def group(self) -> GroupDescription:
        return self.groups.groups[GROUP]

    def _change(self, **values: Any) -> None:
        self.groups.groups[GROUP] = replace(self.group, **values)

    def _event(self, kind: str, ago_s: float = 0.0, **detail: str) -> dict[str, Any]:
        event = {
            "id": f"e-{len(self.sent)}",
            "detail-type": kind,
            "time": format_instant(self.now - ago_s),
            "detail": {"AutoScalingGroupName": GROUP, **detail},
        }
        self.sent.append(event)
        return event

    def _deliver(self, event: dict[str, Any]) -> None:
        handle = handle_check if event["detail-type"] == SCHEDULED_EVENT else handle_launch_event
        before = len(self.groups.given)
        try:
            handle(event, self.dependencies)
        except ApiUnavailable:
            return
        bound = max(self.minimum, min(self.limit, self.group.desired - 1))
        assert all(self.minimum <= base <= bound for base in self.groups.given[before:])

    @rule(ago_s=st.floats(0, 1_200), missing=st.integers(0, 6))
    def spot_launch_fails(self, ago_s: float, missing: int) -> None:
        self._change(present=max(0, self.group.desired - missing))
        self._deliver(self._event(LAUNCH_FAILED_EVENT, ago_s, StatusMessage=NO_SPOT))

    @rule(ago_s=st.floats(0, 1_200))
    def other_launch_fails(self, ago_s: float) -> None:
        self._deliver(self._event(LAUNCH_FAILED_EVENT, ago_s, StatusMessage="MaxSpotInstanceCountExceeded"))

    @rule(ago_s=st.floats(0, 1_200), instance=st.sampled_from([SPOT, ON_DEMAND]))
    def launch_succeeds(self, ago_s: float, instance: str) -> None:
        self._change(present=min(self.group.desired, self.group.present + 1))
        self._deliver(self._event(LAUNCH_SUCCEEDED_EVENT, ago_s, EC2InstanceId=instance))

    @rule()
    def check(self) -> None:
        self._deliver(self._event(SCHEDULED_EVENT))

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def an_event_is_delivered_again(self, data: st.DataObject) -> None:
        self._deliver(data.draw(st.sampled_from(self.sent)))

    @rule(seconds=st.floats(1, 7_200))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(desired=st.integers(0, 6))
    def the_group_is_resized(self, desired: int) -> None:
        self._change(desired=desired, present=desired)

    @rule()
    def a_deployment_resets_the_base(self) -> None:
        self._change(on_demand_base=self.minimum)

    @rule(unavailable=st.booleans())
    def the_api_fails(self, unavailable: bool) -> None:
        self.groups.unavailable = unavailable

    @invariant()
    def the_history_is_bounded(self) -> None:
        if hasattr(self, "sent"):
            record = self.dependencies.records.find(GROUP)
            assert record is None or (len(record.history) <= 20 and all(change.why for change in record.history))

    def teardown(self) -> None:
        """Spot no longer fails, the group is complete: only the schedule runs."""
        if not hasattr(self, "sent"):
            return
        self.groups.unavailable = False
        self._change(present=self.group.desired)
        quiet_at = self.now + QUIET_S + (self.group.on_demand_base + 1) * (STEP_S + CHECK_S) + CHECK_S
        while self.now < quiet_at:
            self.now += CHECK_S
            self._deliver(self._event(SCHEDULED_EVENT))
            assert self.group.on_demand_base <= max(self.minimum, min(self.limit, self.group.desired - 1))
        assert self.group.on_demand_base == self.minimum


TestFallback = Fallback.TestCase
TestFallback.settings = settings(max_examples=examples(60), stateful_step_count=25, deadline=None)
