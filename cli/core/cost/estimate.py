"""Estimate the monthly bill of a deployment: as it is expected, at most, on demand alone, and stopped."""

from __future__ import annotations

from dataclasses import dataclass, replace

from cli.core.cost.line import Line
from cli.core.cost.lines import all_lines
from cli.core.cost.prices import Prices
from cli.core.cost.workload import SECONDS, Clients, Scenario, Workload
from stacks.settings import FleetSettings


@dataclass(frozen=True)
class Estimate:
    """What a deployment costs a month, in dollars."""

    lines: tuple[Line, ...]
    nodes: float
    """On the average; where the fleet scales automatically, half-way between its bounds."""

    clients: Clients
    """Where clients are assumed to be."""

    on_demand: float
    """The same with on-demand instances only."""

    most: float
    """With as many nodes as there may be, all of the dearest type, and as many of them on demand as allowed."""

    stopped: float
    """After `synkti stop`."""

    tokens_per_month: float

    @property
    def total(self) -> float:
        """The sum of the lines."""
        return total_of(self.lines)

    @property
    def per_million_tokens(self) -> float | None:
        """The total for each million generated tokens; None where none are generated."""
        return self.total / self.tokens_per_month * 1e6 if self.tokens_per_month else None


def estimate(settings: FleetSettings, load: Workload, prices: Prices) -> Estimate:
    """Estimate a deployment.

    Args:
        settings: of the deployment.
        load: on the average of a month.
        prices: of the region.

    Returns:
        The estimate.

    Raises:
        ValueError: the price of an instance type is not known.
    """
    least, most = (settings.min_nodes, settings.max_nodes) if settings.is_autoscaled else (settings.nodes,) * 2
    nodes = (least + most) / 2
    expected = Scenario(settings, load, nodes, min(float(settings.on_demand_base), nodes))
    # One instance stays spot where the base was raised for lack of capacity.
    raised = max(settings.on_demand_base, min(settings.on_demand_limit, most - 1))
    full = [Scenario(settings, load, most, base, dearest=True) for base in (settings.on_demand_base, raised)]
    idle = replace(load, tokens_per_s=0.0, interruptions_per_day=0.0)
    try:
        lines = tuple(all_lines(expected, prices))
        return Estimate(
            lines,
            nodes,
            expected.clients,
            on_demand=total_of(all_lines(replace(expected, on_demand=nodes), prices)),
            most=max(total_of(all_lines(each, prices)) for each in full),
            stopped=total_of(all_lines(Scenario(settings, idle, 0, 0), prices)),
            tokens_per_month=load.tokens_per_s * SECONDS,
        )
    except KeyError as error:
        raise ValueError(f"the price of {error.args[0]} is not known") from error


def total_of(lines: tuple[Line, ...] | list[Line]) -> float:
    """Return the sum of the lines, in dollars."""
    return sum(line.dollars for line in lines)
