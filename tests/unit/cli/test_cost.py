"""`synkti cost`: the estimate against sums made by hand, its bounds, and the command."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.adapters.price_file import packaged_document, packaged_prices
from cli.core.cost.estimate import Estimate, estimate
from cli.core.cost.line import number, price
from cli.core.cost.prices import Item, Prices, parse_prices
from cli.core.cost.workload import JOURNAL_BYTES, STREAM_BYTES, Clients, Workload
from node_agent.core.journal.records import encode_record
from node_agent.core.replication.protocol import APPEND, encode
from node_agent.core.sizing.gpus import KNOWN_TYPES
from stacks.settings import FleetSettings
from stacks.settings_rules import validation_errors
from tests.unit.cli.conftest import Run

DEFAULTS = FleetSettings()
PRICES = packaged_prices()
DOCUMENT = packaged_document()
ONE = replace(DEFAULTS, nodes=1, instance_types=("g6.xlarge",))
IN_A_VPC: dict[str, Any] = {
    "vpc": "existing",
    "subnet_ids": ("subnet-01234567", "subnet-01234568"),
    "public_addresses": False,
}


def lines(settings: FleetSettings = DEFAULTS, prices: Prices = PRICES, **load: Any) -> dict[str, float]:
    return {line.what: line.dollars for line in estimated(settings, prices, **load).lines}


def estimated(settings: FleetSettings = DEFAULTS, prices: Prices = PRICES, **load: Any) -> Estimate:
    return estimate(settings, Workload(**load), prices)


def test_the_default_fleet_line_by_line() -> None:
    """Sums made by hand from the prices of us-east-1."""
    found = lines()
    assert found["instances on spot (the mean of 4)"] == pytest.approx(3 * 730 * 0.4 * 1.0001)
    assert found["root volumes"] == pytest.approx(3 * 100 * 0.08)
    assert found["their throughput"] == pytest.approx(3 * (250 - 125) * 0.04)
    assert found["public IPv4 addresses"] == pytest.approx(3 * 730 * 0.005)
    streams, prompts = 1_000 * 250 * 730 * 3.6e-6, 4 * 1_000 * 5 * 730 * 3.6e-6
    assert streams == pytest.approx(657.0)
    assert found["streams of an engine in another zone"] == pytest.approx((streams + prompts) * 2 / 3 * 0.02)
    journals = (1_000 * 30 * 730 * 3.6e-6 + prompts) * 2
    assert found["journals at 2 replicas in other zones"] == pytest.approx(journals * 0.02)
    assert found["streams to clients on the internet"] == pytest.approx(657 * 0.09)
    assert found["alarms"] == pytest.approx(2.1)
    assert found["logs, written"] == pytest.approx((3 * 80 + 4 * (150 + 350)) * 730 * 3.6e-6 * 0.5)
    assert found["the peers' and the clients' keys in Secrets Manager"] == pytest.approx(0.8)
    assert found["reads of the clients' keys"] == pytest.approx(3 * 730 * 240 * 0.000005)
    assert found["models bucket: the model"] == pytest.approx(16 * 0.023)
    assert found["models bucket: packages that nodes install"] == pytest.approx(4 * 0.023)
    assert "load balancer" not in found
    assert not any("NAT" in what or "endpoint" in what for what in found)


def test_the_sum_is_that_of_its_lines() -> None:
    found = estimated()
    assert found.total == pytest.approx(sum(line.dollars for line in found.lines))
    assert found.per_million_tokens == pytest.approx(found.total / (1_000 * 730 * 3_600 / 1e6))
    assert estimated(tokens_per_s=0.0).per_million_tokens is None


def test_instances_on_demand_are_of_the_first_type_and_spot_of_the_mean() -> None:
    settings = replace(DEFAULTS, on_demand_base=1, instance_types=("g5.xlarge", "g6.xlarge"))
    found = lines(settings, replace(PRICES, spot={"g5.xlarge": 0.5, "g6.xlarge": 0.3}))
    assert found["instances on demand (g5.xlarge)"] == pytest.approx(730 * 1.006)
    assert found["instances on spot (the mean of 2)"] == pytest.approx(2 * 730 * 0.4)


def test_a_spot_price_that_is_not_known_is_the_assumed_share() -> None:
    assert lines(ONE, spot_share=0.5)["instances on spot (g6.xlarge)"] == pytest.approx(730 * 0.8048 / 2)
    known = replace(PRICES, spot={"g6.xlarge": 0.3})
    assert lines(ONE, known, spot_share=0.5)["instances on spot (g6.xlarge)"] == pytest.approx(730 * 0.3)


def test_one_node_sends_nothing_between_zones() -> None:
    assert not any("zone" in what for what in lines(ONE))


def test_a_load_balancer_is_its_hours_its_units_and_its_addresses() -> None:
    settings = replace(DEFAULTS, load_balancer="public", client_cidrs=("192.0.2.0/24",))
    found = lines(settings)
    assert found["load balancer"] == pytest.approx(16.425)
    # 657 GB to clients and 52.56 GB from them are 0.972 GB an hour, a unit each.
    assert found["its capacity units (LCU)"] == pytest.approx((657 + 52.56) / 730 * 730 * 0.006)
    assert found["public IPv4 addresses"] == pytest.approx((3 + 3) * 730 * 0.005)
    assert found["streams between it and nodes in other zones"] == pytest.approx((657 + 52.56) * 2 / 3 * 0.02)


def test_tls_connections_need_more_units() -> None:
    plain = replace(DEFAULTS, load_balancer="public", client_cidrs=("192.0.2.0/24",))
    secured = replace(plain, certificate_arn="arn:aws:acm:us-east-1:123456789012:certificate/0a1b")
    load: dict[str, Any] = {
        "tokens_per_s": 100_000.0,
        "answer_tokens": 20.0,
        "prompt_tokens": 0.0,
    }  # 5,000 new connections a second
    assert lines(secured, **load)["its capacity units (LCU)"] == pytest.approx(5_000 / 50 * 730 * 0.006)
    assert lines(plain, **load)["its capacity units (LCU)"] < lines(secured, **load)["its capacity units (LCU)"]


def test_private_subnets_pay_for_a_nat_gateway_or_for_endpoints() -> None:
    private = replace(DEFAULTS, **IN_A_VPC)
    found = lines(private, interruptions_per_day=0.0)
    assert found["NAT gateways of the existing VPC"] == pytest.approx(730 * 0.045)
    logs = found["logs, written"] / 0.5
    assert found["logs through them"] == pytest.approx(logs * 0.045), "packages come from S3, by a gateway endpoint"
    assert "public IPv4 addresses" not in found
    assert "streams to clients on the internet" not in found
    # Two zones: half of the traffic to clients in the VPC crosses them.
    assert found["streams to clients in other zones of the VPC"] == pytest.approx((657 + 52.56) / 2 * 0.02)
    found = lines(replace(private, interface_endpoints=True))
    assert found["interface endpoints of 8 services"] == pytest.approx(8 * 2 * 730 * 0.01)
    assert "NAT gateways of the existing VPC" not in found
    assert not any("NAT" in what or "through them" in what for what in lines(private, nat_gateways=0))


def test_a_baked_image_is_its_snapshot_and_no_reads_of_the_model() -> None:
    baked = replace(DEFAULTS, bake_image=True, bake_model=True, model_sha256="a" * 64, **IN_A_VPC)
    found = lines(baked)
    assert found["the image's snapshot, at most"] == pytest.approx(5.0)
    assert "reads of the model by nodes that start" not in found


def test_a_scaled_fleet_is_half_way_between_its_bounds_and_at_most_at_the_upper_one() -> None:
    scaled = replace(ONE, scale_target=8, min_nodes=2, max_nodes=10, on_demand_limit=0)
    found = estimated(scaled)
    assert found.nodes == 6
    assert found.most == pytest.approx(estimated(replace(scaled, min_nodes=10)).total)
    assert lines(scaled)["alarms"] == pytest.approx(2.3), "Auto Scaling makes two"
    alone = replace(ONE, nodes=1)
    assert lines(alone)["alarms"] == pytest.approx(2.0), "one node has no replicas to be without"


def test_at_most_is_without_spot_capacity_and_of_the_dearest_type() -> None:
    settings = replace(DEFAULTS, instance_types=("g6.xlarge", "g5.2xlarge"), on_demand_limit=2)
    most = estimated(settings).most
    only = replace(settings, instance_types=("g5.2xlarge",))
    on_demand = 2 * 730 * (0.8048 - 0.4 * 1.212)  # two of three, of the first type
    assert most == pytest.approx(estimated(only).total + on_demand)


def test_a_stopped_fleet_keeps_only_what_is_stored_and_watched() -> None:
    stopped = estimated(interruptions_per_day=5.0).stopped
    assert stopped == pytest.approx(2.1 + 1.2 + 3.0 + (16 + 4) * 0.023 + 2 * 0.4 + 8_760 * 9.1167e-6, abs=0.001)
    balanced = replace(DEFAULTS, load_balancer="internal", client_cidrs=("10.0.0.0/8",))
    assert estimated(balanced).stopped == pytest.approx(stopped + 16.425)


def test_traffic_to_the_internet_has_tiers() -> None:
    dollars = PRICES.internet_dollars(200_000)
    assert dollars == pytest.approx(10_240 * 0.09 + 40_960 * 0.085 + 102_400 * 0.07 + 46_400 * 0.05)
    assert PRICES.internet_dollars(0) == 0


@given(
    nodes=st.integers(1, 40),
    base=st.integers(0, 40),
    limit=st.integers(0, 40),
    types=st.lists(st.sampled_from(sorted(PRICES.on_demand)), min_size=1, max_size=4, unique=True),
    balancer=st.sampled_from(["none", "internal", "public"]),
    tokens=st.floats(0, 1e6),
    share=st.floats(0, 1),
    clients=st.sampled_from([None, *Clients]),
)
def test_no_estimate_is_above_its_bound_or_below_the_stopped_fleet(
    nodes: int, base: int, limit: int, types: list[str], balancer: str, tokens: float, share: float, clients: Any
) -> None:
    settings = replace(
        DEFAULTS,
        nodes=nodes,
        on_demand_base=min(base, nodes),
        on_demand_limit=limit,
        instance_types=tuple(types),
        load_balancer=balancer,
        client_cidrs=("192.0.2.0/24",),
    )
    assert validation_errors(settings) == []
    found = estimated(settings, tokens_per_s=tokens, spot_share=share, clients=clients)
    assert 0 < found.stopped <= found.total <= found.most + 1e-6
    assert all(line.dollars > 0 for line in found.lines)


def test_the_bytes_of_a_token_are_about_those_of_the_formats() -> None:
    chunk = {
        "id": "chatcmpl-" + 32 * "0",
        "object": "chat.completion.chunk",
        "created": 1_764_000_000,
        "model": "model",
        "choices": [{"index": 0, "delta": {"content": " word"}, "logprobs": None, "finish_reason": None}],
    }
    sent = len(f"data: {json.dumps(chunk, separators=(',', ':'))}\n\n")
    with_ids = sent + len(',"token_ids":[12345]')
    assert 0.6 * STREAM_BYTES < sent < with_ids < 1.2 * STREAM_BYTES
    record = b"0 12345  word\n"
    assert len(record) < len(encode_record(0, 12, [12345], " word", 67))
    assert 0.8 * JOURNAL_BYTES < len(encode(APPEND, 1, 12, record)) < 1.2 * JOURNAL_BYTES


def test_the_price_file_has_every_known_type_that_can_be_bought() -> None:
    assert set(KNOWN_TYPES) - set(PRICES.on_demand) == {"p5e.48xlarge"}, "sold in capacity blocks only"
    assert {DOCUMENT["instances"]["dated"][:2], DOCUMENT["services"]["dated"][:2]} == {"20"}


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("region",), None, "lacks 'region'"),
        (("services", "dollars", Item.ALARM.value), None, "lacks 'alarm_month'"),
        (("services", "dollars", Item.ALARM.value), -1, "alarm_month is no price: -1"),
        (("services", "dollars", Item.ALARM.value), True, "is no price"),
        (("instances", "dollars_per_hour", "g6.xlarge"), "0.8", "g6.xlarge is no price"),
        (("instances", "dollars_per_hour"), [1], "lacks"),
        (("services", "internet_gb"), [[1, 0.1]], "has to have no limit"),
        (("services", "internet_gb"), [], "has to have no limit"),
        (("services", "internet_gb"), [[1, 2, 3]], "too many values"),
    ],
)
def test_a_damaged_price_file_is_refused(keys: tuple[str, ...], value: Any, message: str) -> None:
    document = copy.deepcopy(DOCUMENT)
    inside = document
    for key in keys[:-1]:
        inside = inside[key]
    if value is None:
        del inside[keys[-1]]
    else:
        inside[keys[-1]] = value
    with pytest.raises(ValueError, match=message):
        parse_prices(document)


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (3, "3"), (1.81, "1.8"), (0.42, "0.42"), (66_833.3, "66,833"), (10.4, "10")]
)
def test_amounts_are_rounded_for_people(value: float, text: str) -> None:
    assert number(value) == text


def test_unit_prices_keep_their_digits() -> None:
    assert [price(each) for each in (0.5, 0.0225, 4e-7, 3.0)] == ["$0.50", "$0.0225", "$0.0000004", "$3.00"]


def test_the_command_prints_lines_their_sum_and_what_they_assume(run: Run, nowhere: Path) -> None:
    (nowhere / "synkti.toml").write_text('nodes = 2\nregion = "eu-west-1"\n')
    done = run("cost", "--tokens", "200")
    assert done.code == 0
    assert done.table[0] == ["WHAT", "CALCULATION", "A MONTH"]
    assert ["public IPv4 addresses", "2 x 730 h x $0.005", "$7.30"] in done.table
    assert done.table[-5][0] == "together"
    assert "after synkti stop: $" in done.out
    assert "200 generated tokens/s" in done.err
    assert "the fleet is for eu-west-1, where prices differ" in done.err
    document = run("cost", "--tokens", "200", "--json").document
    assert document["total"] == pytest.approx(sum(line["dollars"] for line in document["lines"]), abs=0.01)
    assert document["assumed"]["tokens_per_s"] == 200
    assert document["prices"]["region"] == "us-east-1"


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--tokens", "-1"), 2, "--tokens -1: must be from 0"),
        (("--tokens", "nan"), 2, "--tokens nan"),
        (("--answer", "0"), 2, "--answer 0: must be from 1"),
        (("--model-gb", "inf"), 2, "--model-gb inf"),
        (("--spot-share", "1.5"), 2, "--spot-share 1.5: must be from 0 to 1"),
        (("--clients", "moon"), 2, "moon"),
        (("--nat-gateways", "-1"), 2, "'--nat-gateways'"),
        (("-c", "nodes=0"), 78, "nodes='0'"),
        (("-c", "instance_types=g99.xlarge"), 1, "the price of g99.xlarge is not known"),
    ],
)
def test_bad_input_is_a_sentence(options: tuple[str, ...], code: int, message: str, run: Run) -> None:
    done = run("cost", *options)
    assert (done.code, message in done.err) == (code, True), done.err
