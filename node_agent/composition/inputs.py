"""What a node is made from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from node_agent.adapters.http import HttpClient
from node_agent.adapters.steady_clock import SteadyClock
from node_agent.core.node.lifecycle import Event
from node_agent.dependencies import Dependencies
from node_agent.runtime.common.metrics import Metrics
from node_agent.settings import Settings


@dataclass(frozen=True)
class Inputs:
    """What a node is made from.

    to_engine: the HTTP client for requests to the node's own engine.
    clock: unix seconds, steady; monotonic: seconds, for durations.
    random: of waits and choices, no secret comes from it.
    post: queues an event for the lifecycle.
    """

    settings: Settings
    outside: Dependencies
    to_engine: HttpClient
    metrics: Metrics
    clock: SteadyClock
    monotonic: Callable[[], float]
    random: Random
    post: Callable[[Event], None]
