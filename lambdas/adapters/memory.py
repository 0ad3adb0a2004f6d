"""In-memory fakes of the ports, with the same rules for conditional writes. Only tests use them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lambdas.adapters.ports import RecordChanged
from lambdas.core.decisions import Action, Decision, InstanceDescription, append_interruption
from lambdas.core.on_demand_fallback import GroupDescription
from node_agent.contract.capacity import CapacityRecord
from node_agent.contract.launch_breaker import BreakerRecord
from node_agent.contract.open_streams import OpenStreams, open_streams_life
from node_agent.contract.ownership import Ownership, moves_forward
from node_agent.contract.table_schema import NodeRecord, StreamStatus, renewed
from node_agent.contract.tags import NodeTags


class MemoryInstances:
    """Fakes the Instances port. spot: ids of the instances that are spot."""

    def __init__(self, instances: dict[str, InstanceDescription], spot: frozenset[str] = frozenset()) -> None:
        self.instances = instances
        self._spot = spot

    def find(self, instance_id: str) -> InstanceDescription | None:
        """Return the instance; None where there is none of this id."""
        return self.instances.get(instance_id)

    def tag(self, instance_id: str, tags: NodeTags) -> None:
        """Write these tags; others of the instance stay. Raises KeyError where there is no such instance."""
        instance = self.instances[instance_id]
        self.instances[instance_id] = replace(instance, tags={**instance.tags, **tags.encode()})

    def is_spot(self, instance_id: str) -> bool | None:
        """Return whether the instance is spot; None where there is none of this id."""
        return instance_id in self._spot if instance_id in self.instances else None


class MemoryRecords:
    """Fakes the Records port."""

    def __init__(self) -> None:
        self.records: dict[str, NodeRecord] = {}
        self._pools: dict[tuple[str, str], tuple[int, ...]] = {}

    def find(self, instance_id: str) -> NodeRecord | None:
        """Return the node's record; None where there is none."""
        return self.records.get(instance_id)

    def write(self, decision: Decision) -> None:
        """Write what the decision has, under DynamoRecords' conditions. Raises RecordChanged."""
        record, step = decision.record, decision.step
        if record is None or step is None:
            raise AssertionError(f"nothing to write in {decision}")
        held = self.records.get(record.instance_id)
        if decision.action is Action.CREATE:
            if held is not None:
                raise RecordChanged
            self.records[record.instance_id] = record
            return
        if (
            held is None
            or (held.incarnation, held.state) != (record.incarnation, record.state)
            or step.key in held.timeline
        ):
            raise RecordChanged
        timeline = {**held.timeline, step.key: step}
        life = max(held.expires_at, renewed(step.at))
        self.records[record.instance_id] = replace(
            held, state=decision.state or held.state, timeline=timeline, expires_at=life
        )

    def record_interruption(self, zone: str, instance_type: str, at: float, now: float) -> None:
        """Add to the pool's recent interruptions; nothing can interfere here."""
        pool = (zone, instance_type)
        self._pools[pool] = append_interruption(self._pools.get(pool, ()), at)

    def recent_interruptions(self, zone: str, instance_type: str) -> tuple[int, ...]:
        """Return the pool's recent interruptions in unix milliseconds, oldest first."""
        return self._pools.get((zone, instance_type), ())


class MemoryStreams:
    """Fakes the StreamRecords port."""

    def __init__(self) -> None:
        self.open: dict[str, OpenStreams] = {}
        self.owned: dict[str, Ownership] = {}

    def find(self, instance_id: str) -> OpenStreams | None:
        """Return the node's record; None where there is none."""
        return self.open.get(instance_id)

    def advance(self, changes: Sequence[Ownership]) -> int:
        """Write those that move their stream forward. Returns how many."""
        written = [change for change in changes if moves_forward(self.owned.get(change.stream), change)]
        self.owned.update({change.stream: change for change in written})
        return len(written)

    def mark_deadline(self, record: OpenStreams, deadline: float) -> None:
        """Add the deadline, under DynamoStreams' conditions. Raises RecordChanged."""
        held = self._unchanged(record)
        if held.deadline is not None:
            raise RecordChanged
        self.open[record.instance_id] = replace(
            held, deadline=deadline, expires_at=max(held.expires_at, open_streams_life(deadline))
        )

    def mark_ended(self, record: OpenStreams, at: float) -> None:
        """Add the end, under DynamoStreams' conditions. Raises RecordChanged."""
        held = self._unchanged(record)
        if held.ended_at is not None:
            raise RecordChanged
        self.open[record.instance_id] = replace(held, ended_at=at)

    def _unchanged(self, record: OpenStreams) -> OpenStreams:
        held = self.open.get(record.instance_id)
        if held is None or held.incarnation != record.incarnation:
            raise RecordChanged
        return held

    def orphaned(self, before: float, now: float) -> int:
        """Count the streams that are orphaned since before that time, and not expired."""
        return sum(
            1
            for each in self.owned.values()
            if each.status is StreamStatus.ORPHANED and each.changed_at < before and each.expires_at > now
        )


class MemoryGroups:
    """Fakes the Groups and Launches ports."""

    def __init__(self, groups: dict[str, GroupDescription]) -> None:
        self.groups = groups

    def find(self, group: str) -> GroupDescription | None:
        """Return the group; None where there is none of this name."""
        return self.groups.get(group)

    def set_on_demand_base(self, group: str, base: int) -> None:
        """Set the base. Raises KeyError where there is no such group."""
        self.groups[group] = replace(self.groups[group], on_demand_base=base)

    def suspend_launches(self, group: str) -> None:
        """Suspend launches. Raises KeyError where there is no such group."""
        self.groups[group] = replace(self.groups[group], launches_suspended=True)

    def resume_launches(self, group: str) -> None:
        """Resume launches. Raises KeyError where there is no such group."""
        self.groups[group] = replace(self.groups[group], launches_suspended=False)


class MemoryCapacity:
    """Fakes the CapacityRecords port."""

    def __init__(self) -> None:
        self.records: dict[str, CapacityRecord] = {}

    def find(self, group: str) -> CapacityRecord | None:
        """Return the group's record; None where there is none."""
        return self.records.get(group)

    def write(self, record: CapacityRecord) -> None:
        """Replace the version before. Raises RecordChanged where there is another one."""
        held = self.records.get(record.group)
        if (held.version if held is not None else 0) != record.version - 1:
            raise RecordChanged
        self.records[record.group] = record


class MemoryBreaker:
    """Fakes the BreakerRecords port."""

    def __init__(self) -> None:
        self.records: dict[str, BreakerRecord] = {}

    def find(self, group: str) -> BreakerRecord | None:
        """Return the group's record; None where there is none."""
        return self.records.get(group)

    def write(self, record: BreakerRecord) -> None:
        """Replace the version before. Raises RecordChanged where there is another one."""
        held = self.records.get(record.group)
        if (held.version if held is not None else 0) != record.version - 1:
            raise RecordChanged
        self.records[record.group] = record
