"""How fast membership goes about its work."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GossipConfig:
    """Seconds, where a field does not say otherwise. The defaults are for one region's network."""

    probe_interval_s: float = 1.0
    """In that time a node probes two members, whatever the size of the fleet: the next one in its rotation, and the one
    that it watches, whose life comes next on the ring of lives. The rotation alone leaves it to chance who probes a
    dead node first: in a hundredth of all cases nobody does for five seconds."""

    probe_timeout_s: float = 0.35
    """How long the probed one has to answer before helpers are asked: many round trips, and a busy loop's lag."""

    probe_deadline_s: float = 0.85
    """How long a probe lasts with its helpers; the rest of the period is slack."""

    indirect_probers: int = 3
    """Who are asked to probe in this node's place."""

    extra_probes: float = 4.0
    """How many nodes, on average, probe a suspect at once when they hear of it, so that its suspicion is confirmed or
    refuted without waiting for the rotation to come by."""

    gossip_interval_s: float = 0.25
    """Rumours and loads that found no room in probes go out that often."""

    fanout: int = 3
    """Members that get rumours each time; loads alone go to one."""

    leave_fanout: int = 8
    """Members that are told at once when this node leaves: it may not live to tell more."""

    loads_per_s: float = 24.0
    """How many loads each node takes in, whatever the size of the fleet: a larger one's are older, not more."""

    min_load_interval_s: float = 0.25

    sync_interval_s: float = 60.0
    """Between two comparisons of tables with some member; where they agree it costs one message each way."""

    sync_after_change_s: float = 10.0
    """The same where something has changed meanwhile: a rumour may have missed this node, or passed it unheard."""

    retry_dead_interval_s: float = 5.0
    """How often all dead members together are tried once by each as many living ones: a split fleet heals."""

    dead_retention_s: float = 60.0
    """How long a dead one stays that EC2 does not list any more."""
