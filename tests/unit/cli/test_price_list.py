"""Prices of AWS's Price List API: the requests as botocore validates them, and documents of the documented shape."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from botocore.stub import ANY, Stubber
from hypothesis import given
from hypothesis import strategies as st

from cli import cost as command
from cli.account import Account
from cli.adapters.price_file import packaged_prices
from cli.adapters.price_list import PriceList
from cli.core.cost.price_list import INTERNET, ITEMS, Listed, Query, instance_query, read_product, with_listed
from cli.core.cost.prices import Item, Tier
from tests.unit.cli.conftest import Run
from tests.unit.cli.memory_cloudformation import MemoryCloudFormation

PRICES = packaged_prices()


def product(usage: str, *rates: tuple[str, float], unit: str = "Hrs") -> str:
    """A document of the price list. rates: the end of each tier, and its dollars."""
    dimensions = {
        f"SKU.TERM.{number}": {
            "unit": unit,
            "beginRange": "0",
            "endRange": end,
            "description": "...",
            "appliesTo": [],
            "pricePerUnit": {"USD": f"{dollars:.10f}"},
        }
        for number, (end, dollars) in enumerate(rates)
    }
    return json.dumps(
        {
            "product": {
                "productFamily": "...",
                "attributes": {"usagetype": usage, "regionCode": "eu-west-1"},
                "sku": "S",
            },
            "serviceCode": "...",
            "terms": {"OnDemand": {"SKU.TERM": {"priceDimensions": dimensions, "sku": "S"}}},
        }
    )


class MemoryPricing:
    """The Price List API with some products: `documents` by service code and one of the filters' values."""

    def __init__(self, documents: dict[tuple[str, str], list[str]]) -> None:
        self.documents = documents
        self.requests: list[dict[str, Any]] = []

    def get_paginator(self, operation: str) -> MemoryPricing:
        assert operation == "get_products"
        return self

    def paginate(self, **request: Any) -> Iterator[dict[str, Any]]:
        self.requests.append(request)
        values = {each["Value"] for each in request["Filters"]}
        found = [
            document
            for (service, value), documents in self.documents.items()
            if service == request["ServiceCode"] and value in values
            for document in documents
        ]
        for start in range(0, len(found) or 1, 2):
            yield {"FormatVersion": "aws_v1", "PriceList": found[start : start + 2]}


IRELAND = {
    ("AmazonEC2", "g6.xlarge"): [product("EUW1-BoxUsage:g6.xlarge", ("Inf", 0.8852))],
    ("AmazonEC2", "gp3"): [
        product("EU-EBS:VolumeUsage.gp3", ("Inf", 0.088), unit="GB-Mo"),
        product("EU-EBS:VolumeP-IOPS.gp3", ("Inf", 0.0055), unit="IOPS-Mo"),
        product("EU-EBS:VolumeP-Throughput.gp3", ("Inf", 45.056), unit="GiBps-mo"),
    ],
    ("AmazonEC2", "NAT Gateway"): [
        product("EU-NatGateway-Hours", ("Inf", 0.048)),
        product("EU-NatGateway-Bytes", ("Inf", 0.048), unit="GB"),
    ],
    ("AWSDataTransfer", "AWS Outbound"): [
        product(
            "EU-DataTransfer-Out-Bytes", ("51200", 0.085), ("10240", 0.09), ("153600", 0.07), ("Inf", 0.05), unit="GB"
        )
    ],
    ("AWSELB", "Load Balancer-Network"): [
        product("EU-LoadBalancerUsage", ("Inf", 0.0252)),
        product("EU-TS-LoadBalancerUsage", ("Inf", 0.01)),
    ],
}


def listed_of(documents: dict[tuple[str, str], list[str]]) -> Listed:
    return PriceList(MemoryPricing(documents), "eu-west-1").read(("g6.xlarge",))


def test_prices_are_those_of_the_regions_usage_types() -> None:
    listed = listed_of(IRELAND)
    assert listed.on_demand == {"g6.xlarge": 0.8852}
    assert listed.items[Item.VOLUME] == 0.088
    assert listed.items[Item.VOLUME_THROUGHPUT] == pytest.approx(0.044), "sold in GiB/s, counted in MiB/s"
    assert listed.items[Item.NAT_GATEWAY] == 0.048
    assert listed.internet == (Tier(10_240, 0.09), Tier(51_200, 0.085), Tier(153_600, 0.07), Tier(math.inf, 0.05))


def test_what_is_ambiguous_or_absent_stays_the_price_files() -> None:
    """`TS-LoadBalancerUsage` is something else, and ends alike."""
    listed = listed_of(IRELAND)
    assert Item.BALANCER not in listed.items
    assert {"balancer_hour", "log_gb"} <= set(listed.missing)
    prices = with_listed(PRICES, "eu-west-1", listed)
    assert (prices.region, prices.of(Item.BALANCER)) == ("eu-west-1", PRICES.of(Item.BALANCER))
    assert "balancer_hour" in prices.origin
    assert prices.on_demand == {"g6.xlarge": 0.8852}, "no other region's instances"
    assert len(with_listed(PRICES, "us-east-1", listed).on_demand) == len(PRICES.on_demand)


def test_two_prices_of_one_instance_type_are_none() -> None:
    doubled = {("AmazonEC2", "g6.xlarge"): [product("A", ("Inf", 0.8)), product("B", ("Inf", 0.9))]}
    listed = listed_of(doubled)
    assert (listed.on_demand, "g6.xlarge" in listed.missing) == ({}, True)


def test_a_reservation_that_costs_nothing_an_hour_is_no_price() -> None:
    free = product("EUW1-Reservation:g6.xlarge", ("Inf", 0.0))
    assert listed_of({("AmazonEC2", "g6.xlarge"): [free]}).on_demand == {}


QUERIES = {repr(query): query for query in (instance_query("g6.xlarge"), INTERNET[0], *(q for q, _ in ITEMS.values()))}


@pytest.mark.parametrize("query", QUERIES.values(), ids=lambda query: str(query.service))
def test_botocore_accepts_each_request(query: Query) -> None:
    client = boto3.client("pricing", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
    expected = {**query.parameters("eu-west-1"), "MaxResults": ANY}
    with Stubber(client) as stub:
        stub.add_response("get_products", {"FormatVersion": "aws_v1", "PriceList": []}, expected)
        assert PriceList(client, "eu-west-1")._products(query) == []
        stub.assert_no_pending_responses()


def test_each_query_is_requested_once_and_of_the_region() -> None:
    pricing = MemoryPricing(IRELAND)
    PriceList(pricing, "eu-west-1").read(("g6.xlarge",))
    requests = [json.dumps(each["Filters"]) for each in pricing.requests]
    assert len(requests) == len(set(requests)) == len(QUERIES)
    assert all("eu-west-1" in each for each in requests)
    assert all(each["PaginationConfig"]["MaxItems"] <= 1_000 for each in pricing.requests), "bounded"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(value=json_values, place=st.sampled_from(["document", "terms", "dimensions", "rate", "attributes"]))
def test_a_document_of_another_shape_is_no_product(value: Any, place: str) -> None:
    document: Any = json.loads(product("A", ("Inf", 1.0)))
    term = document["terms"]["OnDemand"]["SKU.TERM"]
    match place:
        case "document":
            document = value
        case "terms":
            document["terms"] = value
        case "dimensions":
            term["priceDimensions"] = value
        case "rate":
            term["priceDimensions"]["SKU.TERM.0"] = value
        case "attributes":
            document["product"] = value
    assert read_product(json.dumps(document)) is None


@pytest.mark.parametrize("text", ["", "{", "nonsense", "[" * 10_000])
def test_what_is_no_json_is_no_product(text: str) -> None:
    assert read_product(text) is None


@pytest.mark.parametrize(("end", "dollars"), [("Inf", -1.0), ("NaN", 1.0), ("0", 1.0), ("x", 1.0), ("Inf", math.inf)])
def test_a_price_that_is_none_is_no_product(end: str, dollars: float) -> None:
    assert read_product(product("A", (end, dollars))) is None


@pytest.fixture
def pricing(aws: MemoryCloudFormation, monkeypatch: pytest.MonkeyPatch) -> MemoryPricing:
    """An account with the price list of Ireland, and EC2's spot prices."""
    made = MemoryPricing(IRELAND)
    real = Account._client

    def client(self: Account, service: str, connections: int = 10) -> Any:
        return made if service == "pricing" else real(self, service, connections)

    monkeypatch.setattr(Account, "_client", client)
    monkeypatch.setattr(command, "read_spot_prices", lambda account, types, now: {"g6.xlarge": 0.31})
    return made


ONE = ("-c", "instance_types=g6.xlarge", "-c", "nodes=1")


def test_with_credentials_prices_are_todays(pricing: MemoryPricing, run: Run) -> None:
    done = run("cost", *ONE, "--region", "eu-west-1")
    assert ["instances on spot (g6.xlarge)", "1 x 730 h x $0.310", "$226"] in done.table
    assert ["root volumes", "1 x 100 GB x $0.088", "$8.80"] in done.table
    assert "prices of eu-west-1 (today's, of AWS's Price List API" in done.err
    assert "assumed to be 40%" not in done.err
    document = run("cost", *ONE, "--region", "eu-west-1", "--json").document
    assert document["prices"]["spot"] == {"g6.xlarge": 0.31}


def test_the_file_is_used_on_request_and_where_the_api_refuses(
    pricing: MemoryPricing, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "the price file: instances of" in run("cost", *ONE, "--prices", "file").err
    assert pricing.requests == []

    def refused(account: Account, types: Any) -> Listed:
        raise ClientError({"Error": {"Code": "AccessDeniedException", "Message": "no"}}, "GetProducts")

    monkeypatch.setattr(command, "read_price_list", refused)
    done = run("cost", *ONE)
    assert (done.code, "may not do GetProducts" in done.err, "the price file" in done.err) == (0, True, True)
    done = run("cost", *ONE, "--prices", "aws")
    assert (done.code, "allow pricing:GetProducts" in done.err) == (1, True)


def test_without_credentials_aws_prices_are_refused_and_the_file_is_used(run: Run) -> None:
    done = run("cost", *ONE)
    assert (done.code, "no AWS region is set" in done.err) == (0, True)
    assert run("cost", *ONE, "--prices", "aws").code == 78
    done = run("cost", *ONE, "--prices", "aws", "--region", "us-east-1")
    assert (done.code, "no AWS credentials" in done.err) == (1, True)


def test_a_type_that_the_region_has_no_price_of_is_named(pricing: MemoryPricing, run: Run) -> None:
    done = run("cost", "-c", "instance_types=g5.xlarge", "--region", "eu-west-1")
    assert (done.code, "the price of g5.xlarge is not known" in done.err) == (1, True)


def test_the_price_list_is_requested_where_it_has_an_endpoint() -> None:
    client: Callable[..., Any] = Account(None, "eu-west-1").client
    assert client("pricing").meta.region_name == "us-east-1"
    assert client("ec2").meta.region_name == "eu-west-1"
