"""Compare instance types for a model: what `synkti plan` prints."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cli.core.model_fit import types_setting
from node_agent.core.sizing.fit import Fit, Verdict
from node_agent.core.sizing.fleet_fit import FleetFit
from node_agent.core.sizing.gpus import KNOWN_TYPES, InstanceGpus, Unusable, known_gpus

HEADERS = ("TYPE", "GPUS", "FITS", "SPLIT", "DTYPE", "CONTEXT", "STREAMS", "SPOT/H", "ON DEMAND/H", "FLEET")
DROPPABLE = ("DTYPE", "SPLIT", "GPUS", "FLEET", "ON DEMAND/H", "STREAMS")
"""Columns that a narrow terminal leaves out, the least important first."""

_NONE = "-"


@dataclass(frozen=True)
class PlanRow:
    """An instance type.

    spot: dollars an hour in the cheapest zone, None where unknown; on_demand: likewise, of the price file; in_fleet: of
    synkti.toml.
    """

    fit: Fit
    gpus: InstanceGpus | Unusable | None
    spot: float | None
    on_demand: float | None
    in_fleet: bool

    def cells(self) -> tuple[str, ...]:
        """Return the row of the table."""
        fit, fits = self.fit, self.fit.verdict is Verdict.FITS
        gpus = f"{self.gpus.count} x {self.gpus.gpu.name}" if isinstance(self.gpus, InstanceGpus) else _NONE
        return (
            fit.instance_type,
            gpus,
            fit.verdict.value,
            str(fit.tensor_parallel) if fits else _NONE,
            fit.dtype if fits else _NONE,
            f"{fit.context:,}" if fits else _NONE,
            f"{fit.streams:.1f}" if fits else _NONE,
            _dollars(self.spot),
            _dollars(self.on_demand),
            "yes" if self.in_fleet else "",
        )

    def document(self) -> dict[str, Any]:
        """Return the row for `--json`; what does not apply is null."""
        fit, fits = self.fit, self.fit.verdict is Verdict.FITS
        gpus = self.gpus if isinstance(self.gpus, InstanceGpus) else None
        return {
            "instance_type": fit.instance_type,
            "gpu": gpus.gpu.name if gpus else None,
            "gpus": gpus.count if gpus else None,
            "fits": fit.verdict.value,
            "tensor_parallel": fit.tensor_parallel if fits else None,
            "dtype": fit.dtype if fits else None,
            "context": fit.context if fits else None,
            "streams": round(fit.streams, 2) if fits else None,
            "spot_dollars_per_hour": self.spot,
            "on_demand_dollars_per_hour": self.on_demand,
            "in_fleet": self.in_fleet,
            "sum": fit.words,
        }


def _dollars(price: float | None) -> str:
    return _NONE if price is None else f"${price:.3f}"


def candidate_types(fleet: Sequence[str], *, every: bool) -> tuple[str, ...]:
    """Return the types to compare: the fleet's, and the smallest of each kind and number of GPUs, or every one."""
    if every:
        return tuple(dict.fromkeys((*fleet, *KNOWN_TYPES)))
    seen: dict[tuple[str, int], str] = {}
    for each in KNOWN_TYPES:
        gpus = known_gpus(each)
        if isinstance(gpus, InstanceGpus):
            seen.setdefault((f"{gpus.gpu.name} {gpus.gpu.memory_bytes}", gpus.count), each)
    return tuple(dict.fromkeys((*fleet, *seen.values())))


def sorted_rows(rows: Sequence[PlanRow]) -> list[PlanRow]:
    """Return the rows: those that fit first, the cheapest first, on spot or else on demand, then in the order given."""
    order = {Verdict.FITS: 0, Verdict.UNKNOWN: 1, Verdict.REFUSED: 2}

    def cheapness(row: PlanRow) -> tuple[int, bool, float]:
        price = row.on_demand if row.spot is None else row.spot
        return order[row.fit.verdict], row.spot is None, math.inf if price is None else price

    return sorted(rows, key=cheapness)


def fleet_lines(fleet: FleetFit) -> list[str]:
    """Return sentences about the fleet of synkti.toml: its context, the types that it has to leave out."""
    types = ", ".join(fit.instance_type for fit in fleet.fits)
    lines = [f"{fit.instance_type} cannot run it: {fit.words}" for fit in fleet.refused]
    if fleet.refused and fleet.usable_types:
        lines.append(f"set {types_setting(fleet.usable_types)}")
    if fleet.smallest is not None and fleet.context is not None:
        lines.append(
            f"a fleet of {', '.join(fleet.usable_types)} has a context of {fleet.context:,} tokens: "
            f"{fleet.smallest.instance_type} sets it"
        )
        lines.append(f"{fleet.smallest.instance_type}: {fleet.smallest.words}")
    elif not fleet.usable_types:
        lines.append(f"a fleet of {types} cannot run it")
    else:
        lines.append(f"{fleet.reason}: each node finds its context length by itself (--max-model-len auto)")
    return lines


def missing_types(fleet: Sequence[str], zones: Mapping[str, frozenset[str]] | None) -> tuple[str, ...]:
    """Return the fleet's types that no zone of the region offers; none where the zones are unknown."""
    return () if zones is None else tuple(each for each in fleet if not zones.get(each))
