"""`synkti cost`: estimate what a deployment costs a month, before anything exists."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from datetime import UTC, datetime
from enum import Enum
from typing import Annotated

import typer
from botocore.exceptions import BotoCoreError

from cli.account import Account
from cli.adapters.price_file import packaged_prices
from cli.adapters.price_list import read_price_list, read_spot_prices
from cli.adapters.results import result_of
from cli.aws_errors import to_cli_error
from cli.core.cost.estimate import estimate
from cli.core.cost.price_list import with_listed
from cli.core.cost.prices import Prices
from cli.core.cost.report import HEADERS, assumptions, document, rows, summary
from cli.core.cost.workload import Clients, Workload
from cli.core.result import Unavailable
from cli.deployment import local_settings, read_context
from cli.errors import BadUsage, Failed
from cli.options import Json, Profile, Region, Settings
from cli.terminal import Terminal

_LOAD = Workload()
_MOST = 1e9
"""Of every figure of the load; a larger one is a mistake."""


class PriceSource(Enum):
    """Where prices come from."""

    AUTO = "auto"
    FILE = "file"
    AWS = "aws"


def cost(
    tokens: Annotated[
        float, typer.Option("--tokens", help="Generated tokens a second, over all nodes, day and night.")
    ] = _LOAD.tokens_per_s,
    answer: Annotated[float, typer.Option("--answer", help="Tokens of an answer.")] = _LOAD.answer_tokens,
    prompt: Annotated[float, typer.Option("--prompt", help="Tokens of a prompt.")] = _LOAD.prompt_tokens,
    model_gb: Annotated[float, typer.Option("--model-gb", help="Size of the model's files.")] = _LOAD.model_gb,
    interruptions: Annotated[
        float, typer.Option("--interruptions", help="Interruptions of the fleet a day.")
    ] = _LOAD.interruptions_per_day,
    spot_share: Annotated[
        float, typer.Option("--spot-share", help="Spot prices as a share of on-demand ones, where EC2's are not known.")
    ] = _LOAD.spot_share,
    clients: Annotated[
        Clients | None, typer.Option("--clients", help="Where clients are; by default what synkti.toml suggests.")
    ] = None,
    nat_gateways: Annotated[
        int, typer.Option("--nat-gateways", help="NAT gateways of an existing VPC.", min=0, max=100)
    ] = _LOAD.nat_gateways,
    prices_from: Annotated[
        PriceSource,
        typer.Option(
            "--prices", help="aws: today's, of AWS; file: of the dated file; auto: AWS's where credentials let it."
        ),
    ] = PriceSource.AUTO,
    context: Settings = None,
    region: Region = None,
    profile: Profile = None,
    as_json: Json = False,
) -> None:
    """Estimate what the deployment of synkti.toml costs a month. Nothing is created.

    Each line has its calculation: instances, volumes, addresses, traffic between zones and to the internet, load
    balancer, alarms, logs. Then: the same on demand, the most that the settings allow, and what remains after a stop.

    With credentials, prices are those of AWS's Price List API, and EC2's of spot instances; without, those of a dated
    file for us-east-1. It is an estimate, not a bill: no figure was compared with one. docs/cost.md has what it leaves
    out.

    \b
    Examples:
      synkti cost
      synkti cost -c nodes=5 -c load_balancer=public -c client_cidrs=203.0.113.0/24
      synkti cost --tokens 200 --clients vpc
      synkti cost --json | jq .total

    \f

    Raises BadUsage as `_workload`.

    Raises:
        Failed: the price of an instance type is not known, or AWS's prices are required and cannot be had.
    """
    terminal = Terminal(as_json)
    settings = local_settings(read_context(context or ()))
    load = _workload(tokens, answer, prompt, model_gb, interruptions, spot_share, clients, nat_gateways)
    where = region or settings.region
    with terminal.spinner("looking at prices"):
        prices, reason = _find_prices(prices_from, where or None, profile, settings.instance_types)
    try:
        found = estimate(settings, load, prices)
    except ValueError as error:
        raise Failed(str(error), "choose other instance_types, or use AWS credentials, for today's prices") from error
    terminal.document(document(found, load, prices, where))
    terminal.table(HEADERS, rows(found), droppable=("CALCULATION",))
    for line in summary(found):
        terminal.line(line)
    for line in assumptions(found, load, prices, where):
        terminal.status(line)
    if reason:
        terminal.status(f"prices are not all of AWS: {reason}")


def _find_prices(
    source: PriceSource, region: str | None, profile: str | None, types: tuple[str, ...]
) -> tuple[Prices, str]:
    """Return the prices, and why some are not AWS's, "" where all that are looked up are. Raises Failed."""
    prices = packaged_prices()
    if source is PriceSource.FILE:
        return prices, ""
    try:
        account = Account(profile, region)
    except BotoCoreError as error:
        if source is PriceSource.AWS:
            raise
        return prices, to_cli_error(error).message
    listed = result_of(lambda: read_price_list(account, types))
    if isinstance(listed, Unavailable):
        if source is PriceSource.AWS:
            raise Failed(f"AWS's price list: {listed.reason}", "allow pricing:GetProducts, or use --prices file")
        reason = listed.reason
    else:
        prices, reason = with_listed(prices, account.region, listed), ""
    now = datetime.fromtimestamp(time.time(), UTC)
    spot = result_of(lambda: read_spot_prices(account, types, now))
    if isinstance(spot, Unavailable):
        return prices, reason or f"spot: {spot.reason}"
    return replace(prices, spot=spot), reason


def _workload(
    tokens: float,
    answer: float,
    prompt: float,
    model_gb: float,
    interruptions: float,
    spot_share: float,
    clients: Clients | None,
    nat_gateways: int,
) -> Workload:
    """Return the load. Raises BadUsage where a figure is none."""
    limits = {
        "--tokens": (tokens, 0.0, _MOST),
        "--answer": (answer, 1.0, _MOST),
        "--prompt": (prompt, 0.0, _MOST),
        "--model-gb": (model_gb, 0.0, _MOST),
        "--interruptions": (interruptions, 0.0, _MOST),
        "--spot-share": (spot_share, 0.0, 1.0),
    }
    for name, (value, least, most) in limits.items():
        if not math.isfinite(value) or not least <= value <= most:
            raise BadUsage(f"{name} {value:g}: must be from {least:g} to {most:g}")
    return Workload(tokens, answer, prompt, model_gb, interruptions, spot_share, clients, nat_gateways)
