"""Judge whether the fleet's instance types can run the model, for `doctor`, `bootstrap` and `model push`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from cli.core.doctor_inputs import Finding, Verdict
from cli.core.result import Result, Unavailable
from node_agent.core.sizing.facts import ModelFiles, parse_facts
from node_agent.core.sizing.fleet_fit import FleetFit, fit_fleet
from node_agent.core.sizing.gpus import InstanceGpus, Unusable
from stacks.settings import FleetSettings

CHECK = "model fit"
SMALLER = "choose larger instance_types, or a quantized model (AWQ, GPTQ, FP8); synkti plan MODEL shows which fit"


@dataclass(frozen=True)
class FitReport:
    """The findings: for each type that cannot run the model, or one. runs: whether some type may run it."""

    findings: tuple[Finding, ...]
    runs: bool


def report_fit(
    settings: FleetSettings,
    files: Result[ModelFiles | None],
    gpus: Result[Mapping[str, InstanceGpus | Unusable]],
) -> FitReport:
    """Judge a fleet.

    Args:
        settings: of the fleet.
        files: the model's; None where there is no model yet.
        gpus: of the types, as EC2 describes them.

    Returns:
        The report; a type that cannot run the model, a wrong config.json and a wrong argument are FAULTs.
    """
    if isinstance(files, Unavailable):
        return FitReport((Finding(CHECK, Verdict.UNKNOWN, files.reason),), runs=True)
    if files is None:
        return FitReport((Finding(CHECK, Verdict.UNKNOWN, "there is no model to look at yet"),), runs=True)
    known = {} if isinstance(gpus, Unavailable) else gpus
    try:
        fleet = fit_fleet(parse_facts(files), settings.instance_types, known, settings.engine_args)
    except ValueError as error:
        return FitReport((Finding(CHECK, Verdict.FAULT, str(error), fault_advice(str(error))),), runs=False)
    return FitReport(tuple(_judge(settings, fleet)), runs=bool(fleet.usable_types))


def types_setting(types: Sequence[str]) -> str:
    """Return the line of synkti.toml that names these types."""
    return f"instance_types = {json.dumps(list(types))}"


def _judge(settings: FleetSettings, fleet: FleetFit) -> Iterator[Finding]:
    for fit in fleet.refused:
        usable = fleet.usable_types
        advice = f"set {types_setting(usable)} in synkti.toml" if usable else SMALLER
        yield Finding(CHECK, Verdict.FAULT, f"{fit.instance_type} cannot run {settings.model}: {fit.words}", advice)
    if fleet.refused:
        return
    smallest = fleet.smallest
    if fleet.context is None or smallest is None:
        found = f"{fleet.reason}: each node finds its context length by itself, and lengths may differ"
        advice = 'set engine_args = ["--max-model-len", "N"], with a length that every type holds'
        yield Finding(CHECK, Verdict.UNKNOWN, found, advice)
        return
    streams = min(fit.streams for fit in fleet.fits)
    yield Finding(
        CHECK,
        Verdict.OK,
        f"a context of {fleet.context:,} tokens on every node, {streams:.1f} requests of that length at a time; "
        f"{smallest.instance_type} sets it: {smallest.words}",
    )


def fault_advice(fault: str) -> str:
    """Return what to do about a ValueError of `fit_fleet`."""
    if fault.startswith("engine_args"):
        return "correct engine_args in synkti.toml"
    if "auto_map" in fault:
        return 'take a model that vLLM has itself; or, if you trust the code, set engine_args = ["--trust-remote-code"]'
    return "compare it with the model's page on the hub, and download the model again"
