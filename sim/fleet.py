"""A simulated fleet: hosts, an EC2 that lists them, and the faults that can be injected."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

from node_agent.contract.states import NodeState
from node_agent.core.membership import GossipConfig, MemberChanged
from node_agent.core.membership.member_table import MemberTable, Rng
from node_agent.core.membership.wire.messages import BOOT_ID_BYTES
from node_agent.core.node.status import NodeStatus, Pool, TaggedNode
from sim.host import Host, Watch
from sim.network import Network, NetworkConditions
from sim.scheduler import Scheduler
from sim.shared_roster import SharedMemberTable, Start

ZONES = ("us-east-1a", "us-east-1b", "us-east-1c")
TYPES = ("g5.xlarge", "g6.xlarge")
KEY = b"the simulated fleet's key"
TAGS_EVERY_S = 30.0
_BEGAN = 1_700_000_000_000
MakeRoster = Callable[[Rng], MemberTable]


def status_of(number: int, incarnation: int) -> NodeStatus:
    """Build the status of the node of that number: its address, its pool and its ids, as EC2 would give them."""
    host = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
    pool = Pool(ZONES[number % len(ZONES)], TYPES[number // len(ZONES) % len(TYPES)])
    instance_id = f"i-{number:017x}"
    return NodeStatus(instance_id, f"{host}:8001", f"{host}:8000", NodeState.READY, pool, "llama", incarnation, "0.1.0")


class Fleet:
    """A fleet of hosts. seed: of all randomness here; watch: receives every change that any host reports."""

    def __init__(
        self,
        seed: int,
        conditions: NetworkConditions | None = None,
        watch: Watch | None = None,
        config: GossipConfig | None = None,
    ) -> None:
        self.scheduler = Scheduler()
        self.network: Network[Host] = Network(self.scheduler, seed, conditions)
        self.hosts: dict[str, Host] = {}
        self.changes: list[tuple[float, str, MemberChanged]] = []
        self.api_is_up = True
        self.looks = 0
        self._seed = seed
        self._random = random.Random(f"fleet {seed}")  # noqa: S311 # a simulation, the same for every seed
        self._watch = watch or self._record
        self._config = config
        self._numbers = 0
        self._max_nodes = 2_000

    def _record(self, host: Host, change: MemberChanged) -> None:
        self.changes.append((self.scheduler.now, host.instance_id, change))

    def make(self, state: NodeState = NodeState.READY) -> Host:
        """Start a new instance, which no other knows yet."""
        self._numbers += 1
        status = replace(status_of(self._numbers, _BEGAN + self._numbers), state=state)
        return self._start(status)

    def _start(self, status: NodeStatus, boot_id: bytes | None = None, table: MakeRoster | None = None) -> Host:
        seed = f"host {self._seed} {status.instance_id} {status.incarnation}"
        host = Host(
            self.scheduler, self.network, status, boot_id or self._random.randbytes(BOOT_ID_BYTES), KEY, seed,
            self._watch, self._config, self._max_nodes, table,
        )  # fmt: skip
        self.hosts[status.instance_id] = host
        return host

    def gather(self, count: int, *, share: bool = False) -> list[Host]:
        """Start so many hosts that know each other. share: their tables begin as one (`sim/shared_roster`)."""
        self._max_nodes = max(self._max_nodes, 2 * count)
        if share:
            return self._gather_shared(count)
        hosts = [self.make() for _ in range(count)]
        for host in hosts:
            for other in hosts:
                if other is not host:
                    host.membership.add_member(other.boot_id, other.membership.status)
        return hosts

    def _gather_shared(self, count: int) -> list[Host]:
        statuses = [status_of(number, _BEGAN + number) for number in range(1, count + 1)]
        boot_ids = [self._random.randbytes(BOOT_ID_BYTES) for _ in statuses]
        start = Start(boot_ids, statuses)

        def roster_of(number: int) -> MakeRoster:
            return lambda rng: SharedMemberTable(number, rng, start, self._max_nodes)

        self._numbers += count
        return [
            self._start(status, boot_id, roster_of(number))
            for number, (status, boot_id) in enumerate(zip(statuses, boot_ids, strict=True))
        ]

    def boot(self, count: int = 1, state: NodeState = NodeState.READY) -> list[Host]:
        """Start so many instances that discover the others by tags."""
        hosts = [self.make(state) for _ in range(count)]
        for host in hosts:
            self._look(host)
        return hosts

    def restart(self, host: Host, clock_set_back_s: float = 0.0) -> Host:
        """Restart the same instance's agent, under a new boot id.

        Args:
            host: the instance, as it was.
            clock_set_back_s: how wrong its clock became meanwhile.

        Returns:
            The instance with its new agent, which discovers the others by tags.
        """
        status = host.membership.status
        began = status.incarnation + round(1000 * (self.scheduler.now + 1 - clock_set_back_s))
        host.terminate()
        again = self._start(replace(status, incarnation=began))
        self._look(again)
        return again

    def keep_looking(self, host: Host) -> None:
        """Read the tags every half minute, as an agent does."""
        self.scheduler.every(TAGS_EVERY_S * (0.8 + 0.4 * self._random.random()), self._look, host)

    def _look(self, host: Host) -> None:
        if self.api_is_up and host.is_running:
            self.looks += 1
            host.tagged(self.tags())

    def tags(self, *still_shown: str) -> list[TaggedNode]:
        """Return what DescribeInstances would: every instance that runs, also those whose agent does not.

        Args:
            still_shown: instance ids that no longer run, which EC2 still lists.

        Returns:
            The instances, all tagged as ready.
        """
        return [self._tag(host) for name, host in self.hosts.items() if host.is_up or name in still_shown]

    def _tag(self, host: Host) -> TaggedNode:
        return TaggedNode(host.instance_id, host.address, NodeState.READY)

    def split(self, *sides: list[Host]) -> None:
        """Cut the network between these sides; `split()` heals it."""
        for host in self.hosts.values():
            host.side = 0
        for number, side in enumerate(sides):
            for host in side:
                host.side = number

    def running(self) -> list[Host]:
        """Return the hosts whose agents would answer now."""
        return [host for host in self.hosts.values() if host.is_running]

    def pass_time(self, seconds: float) -> None:
        """Run everything that happens in the next `seconds` of virtual time."""
        self.scheduler.run_until(self.scheduler.now + seconds)
