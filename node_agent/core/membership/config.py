"""The periods, timeouts and counts of membership."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GossipConfig:
    """Durations are in seconds. The defaults are for one region's network."""

    probe_interval_s: float = 1.0
    """In that time a node probes two members, whatever the size of the fleet: the next one in its probe order, and the
    one that it watches, which comes next on the ring of boot ids. The probe order alone leaves the first probe of a
    dead node to chance: in a hundredth of all cases no node probes it for five seconds."""

    probe_timeout_s: float = 0.35
    """How long a probed member has to ack before indirect probes start: many round trips, and a busy loop's lag."""

    probe_deadline_s: float = 0.85
    """How long a probe lasts with its indirect probes; the rest of the period is slack."""

    indirect_probers: int = 3
    """How many members are sent a PING_REQ."""

    extra_probes: float = 4.0
    """How many nodes, on average, probe a suspect as soon as they receive the suspicion, so that it is confirmed or
    refuted without waiting for their next regular probe."""

    gossip_interval_s: float = 0.25
    """How often updates and loads are sent that found no room in probes."""

    fanout: int = 3
    """How many members get updates each time; loads alone go to one."""

    leave_fanout: int = 8
    """How many members this node notifies at once when it leaves: it may end before it can send more."""

    loads_per_s: float = 24.0
    """How many loads each node receives, whatever the size of the fleet: those of a larger one are older, not more."""

    min_load_interval_s: float = 0.25

    sync_interval_s: float = 60.0
    """Between two syncs with some member; where the tables agree, a sync costs one message each way."""

    sync_after_change_s: float = 10.0
    """The same after a change: an update may have missed this node, or what it sent may have been lost."""

    retry_dead_interval_s: float = 5.0
    """How often all dead members together are tried once by each group of as many live ones: a split fleet heals."""

    dead_retention_s: float = 60.0
    """How long a dead member stays in the table once EC2 no longer lists it."""
