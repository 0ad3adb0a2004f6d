"""`synkti plan`: compare instance types for a model, before anything exists."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Annotated

import typer
from botocore.exceptions import BotoCoreError

from cli.account import Account
from cli.adapters.gpu_types import describe_types, gpus_of, offered_zones, spot_prices
from cli.adapters.model_documents import find_files
from cli.adapters.price_file import packaged_prices
from cli.adapters.results import result_of
from cli.aws_errors import to_cli_error
from cli.core.model_fit import fault_advice
from cli.core.plan import DROPPABLE, HEADERS, PlanRow, candidate_types, fleet_lines, missing_types, sorted_rows
from cli.core.result import Unavailable
from cli.deployment import local_settings, read_context
from cli.errors import Failed
from cli.options import Json, Profile, Region, Settings
from cli.terminal import Terminal
from node_agent.core.sizing.facts import ModelFacts, parse_facts
from node_agent.core.sizing.fleet_fit import fit_fleet
from node_agent.core.sizing.gpus import InstanceGpus, Unusable, known_gpus
from stacks.settings import FleetSettings


def plan(
    model: Annotated[str, typer.Argument(metavar="DIR|NAME", help="A model's folder, or its name on the hub.")],
    every: Annotated[
        bool, typer.Option("--all", help="Show every known GPU type, not the smallest of a kind.")
    ] = False,
    context: Settings = None,
    region: Region = None,
    profile: Profile = None,
    as_json: Json = False,
) -> None:
    """Compare instance types for a model: does it fit, with which context, at which price? Nothing is created.

    For each type: over how many GPUs the model is split, the dtype, the longest context that the KV cache allows, how
    many requests of that length run at a time, the spot price of the cheapest zone, and the on-demand price of the
    dated price file (us-east-1). Then the same for the fleet in synkti.toml; its context is that of its smallest type.

    Only config.json and the sizes of the weights are read. Without AWS credentials the GPUs are those of a table, and
    spot prices are missing. Activations and CUDA graphs are estimated; no GPU has confirmed it yet. synkti cost has the
    whole bill.

    \b
    Examples:
      synkti plan ./Llama-3.1-8B-Instruct
      synkti plan Qwen/Qwen2.5-7B-Instruct-AWQ -c instance_types=g4dn.xlarge
      synkti plan ./Llama-3.1-8B-Instruct --json | jq '.types[] | select(.fits == "fits")'

    \f

    Raises:
        Failed: config.json, or an argument of the engine, is wrong.
    """
    terminal = Terminal(as_json)
    settings = local_settings(read_context(context or ()))
    types = candidate_types(settings.instance_types, every=every)
    files = find_files(model, os.environ)
    with terminal.spinner("looking at instance types"):
        where = region or settings.region or None
        offer = _with_on_demand(_look(where, profile, types), where)
    try:
        facts = parse_facts(files)
        fleet = fit_fleet(facts, settings.instance_types, offer.gpus, settings.engine_args)
        rows = sorted_rows([_row(facts, each, settings, offer) for each in types if _is_shown(each, settings, offer)])
    except ValueError as error:
        raise Failed(f"{model}: {error}", fault_advice(str(error))) from error
    missing = missing_types(settings.instance_types, offer.zones)
    terminal.document(
        {
            "model": model,
            "region": offer.region,
            "types": [row.document() for row in rows],
            "fleet": {"context": fleet.context, "usable": list(fleet.usable_types), "not_offered": list(missing)},
            "without_aws": offer.reason or None,
        }
    )
    terminal.table(HEADERS, [row.cells() for row in rows], droppable=DROPPABLE)
    for line in fleet_lines(fleet):
        terminal.line(line)
    if missing:
        terminal.line(f"{offer.region} does not offer {', '.join(missing)}")
    if offer.reason:
        terminal.status(f"without spot prices: {offer.reason}")


@dataclass(frozen=True)
class _Offer:
    """What EC2 offers, by type. zones: None where unknown; reason: why EC2 could not be queried, "" where it was."""

    region: str | None
    reason: str
    gpus: Mapping[str, InstanceGpus | Unusable] = field(default_factory=dict)
    zones: Mapping[str, frozenset[str]] | None = None
    prices: Mapping[str, float] = field(default_factory=dict)
    on_demand: Mapping[str, float] = field(default_factory=dict)
    """Of the price file, where it is of this region, or no region is known."""


def _look(region: str | None, profile: str | None, types: tuple[str, ...]) -> _Offer:
    """Ask EC2 about the types; without credentials, or where it cannot be reached, say why not."""
    try:
        account = Account(profile, region)
    except BotoCoreError as error:
        return _Offer(None, to_cli_error(error).message)
    ec2 = account.client("ec2")
    described = result_of(lambda: describe_types(ec2, types))
    if isinstance(described, Unavailable):
        return _Offer(account.region, described.reason)
    zones = result_of(lambda: offered_zones(ec2, types))
    now = datetime.fromtimestamp(time.time(), UTC)
    # Only of types that exist: EC2 refuses the whole request where one does not.
    there = [str(each["InstanceType"]) for each in described]
    prices = result_of(lambda: spot_prices(ec2, there, now) if there else {})
    return _Offer(
        account.region,
        prices.reason if isinstance(prices, Unavailable) else "",
        gpus_of(described),
        None if isinstance(zones, Unavailable) else zones,
        {} if isinstance(prices, Unavailable) else prices,
    )


def _with_on_demand(offer: _Offer, region: str | None) -> _Offer:
    prices = packaged_prices()
    return replace(offer, on_demand=prices.on_demand) if (offer.region or region) in (None, prices.region) else offer


def _is_shown(each: str, settings: FleetSettings, offer: _Offer) -> bool:
    return each in settings.instance_types or offer.zones is None or bool(offer.zones.get(each))


def _row(facts: ModelFacts, each: str, settings: FleetSettings, offer: _Offer) -> PlanRow:
    """Return a type's row, with the context that it would have alone. Raises ValueError."""
    (fit,) = fit_fleet(facts, (each,), offer.gpus, settings.engine_args).fits
    gpus = offer.gpus.get(each) or known_gpus(each)
    return PlanRow(fit, gpus, offer.prices.get(each), offer.on_demand.get(each), each in settings.instance_types)
