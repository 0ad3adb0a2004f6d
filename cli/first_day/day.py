"""What the steps of the first-day drill share: the fleet, its clients, the options, the time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

from cli.adapters.group_probe import GroupProbe
from cli.adapters.instances import Instances
from cli.adapters.open_streams import Completions
from cli.adapters.records import Records
from cli.api_key import api_key_headers
from cli.core.first_day.report import StepResult, not_run
from cli.core.nodes import FleetStatus, Node
from cli.endpoint import base_urls, is_reachable
from cli.errors import NotFound
from cli.fleet import Fleet
from cli.nodes import FleetMonitor
from cli.polling import Clock
from cli.terminal import Terminal
from node_agent.contract.names import table_name

POLL_S = 2.0


@dataclass(frozen=True)
class DayOptions:
    """The command's options.

    yes: no confirmation; fis_role: the ARN of the experiments' role; urls: base URLs, where nodes are not reached by
    their addresses; within_s: for each loss, until the fleet is whole again.
    """

    yes: bool = False
    fis_role: str | None = None
    urls: tuple[str, ...] = ()
    within_s: float = 2_700.0


@dataclass
class FirstDay:
    """The fleet under examination. clock: for waits; wall: unix seconds. Tests replace both."""

    terminal: Terminal
    fleet: Fleet
    options: DayOptions
    clock: Clock = field(default_factory=Clock)
    wall: Callable[[], float] = time.time

    @cached_property
    def group(self) -> GroupProbe:
        """The fleet's Auto Scaling group. Raises NotFound where the cluster has no fleet yet."""
        return GroupProbe(self.fleet.account.client("autoscaling"), self.fleet.group_name())

    @cached_property
    def instances(self) -> Instances:
        """The cluster's instances."""
        return Instances(self.fleet.account.client("ec2"), self.fleet.cluster)

    @cached_property
    def records(self) -> Records:
        """The cluster's table."""
        return Records(self.fleet.account.client("dynamodb"), table_name(self.fleet.cluster))

    @cached_property
    def monitor(self) -> FleetMonitor:
        """The fleet's status. Raises NotFound where the cluster has no fleet yet."""
        return FleetMonitor(self.fleet)

    def status(self) -> FleetStatus:
        """Read the fleet's present status. Raises BotoCoreError, ClientError, NotFound."""
        return self.monitor.read_status()

    def ready_nodes(self) -> tuple[Node, ...]:
        """Read the nodes that serve."""
        return tuple(node for node in self.instances.nodes() if node.is_ready)

    def is_running(self, instance_id: str) -> bool:
        """Read whether an instance still runs: a node that drains removes its tags before its end."""
        return self.instances.is_running(instance_id)

    def completions(self) -> Completions | StepResult:
        """Return a client of the fleet, or the result of a step that needs one and cannot have it."""
        try:
            urls = list(self.options.urls) or base_urls(self.fleet)[0]
        except NotFound as error:
            return not_run(error.message, error.advice)
        reachable = [url.removesuffix("/v1") for url in urls if is_reachable(url)]
        if not reachable:
            return not_run(
                "no node answers from here, so no stream can be open",
                "client_cidrs in synkti.toml admits clients; or forward a port (synkti connect), and --url",
            )
        if self.fleet.requires_keys and not api_key_headers(os.environ):
            return not_run(
                "the nodes require a client's key, and none is set",
                "set SYNKTI_API_KEY; synkti keys create drill --expires 1d makes a key",
            )
        return Completions(reachable, self.fleet.output("Model") or "model", api_key_headers(os.environ))
