"""Request prices from AWS's Price List API, and spot prices from EC2."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from cli.account import Account
from cli.adapters.gpu_types import describe_types, spot_prices
from cli.core.cost.price_list import (
    INTERNET,
    ITEMS,
    Listed,
    Product,
    Query,
    first_price,
    instance_price,
    instance_query,
    of_usage,
    read_product,
)

_MAX_PAGES = 10
"""Of a query's products. Each of them has few; more would mean that a filter was ignored."""


class PriceList:
    """The prices of a region. Methods raise BotoCoreError, ClientError."""

    def __init__(self, pricing: Any, region: str) -> None:
        self._pricing = pricing
        self._region = region
        self._known: dict[str, list[Product]] = {}

    def read(self, types: Sequence[str]) -> Listed:
        """Return the prices of the instance types and of the items that are listed."""
        instances = {each: instance_price(self._products(instance_query(each))) for each in types}
        items = {item: first_price(of_usage(self._products(query), usage)) for item, (query, usage) in ITEMS.items()}
        out = of_usage(self._products(INTERNET[0]), INTERNET[1])
        return Listed(
            {name: value for name, value in instances.items() if value is not None},
            {item: value for item, value in items.items() if value is not None},
            () if out is None else out.tiers,
            (
                *(name for name, value in instances.items() if value is None),
                *(item.value for item, value in items.items() if value is None),
                *([] if out else ["traffic to the internet"]),
            ),
        )

    def _products(self, query: Query) -> list[Product]:
        key = repr(query)
        if key not in self._known:
            pages = self._pricing.get_paginator("get_products").paginate(
                **query.parameters(self._region), PaginationConfig={"MaxItems": 100 * _MAX_PAGES, "PageSize": 100}
            )
            documents = [document for page in pages for document in page["PriceList"]]
            self._known[key] = [product for each in documents if (product := read_product(each)) is not None]
        return self._known[key]


def read_price_list(account: Account, types: Sequence[str]) -> Listed:
    """Return what the Price List API has of the account's region. Raises BotoCoreError, ClientError."""
    return PriceList(account.client("pricing"), account.region).read(types)


def read_spot_prices(account: Account, types: Sequence[str], now: datetime) -> dict[str, float]:
    """Return the spot prices of those of the types that the region offers. Raises BotoCoreError, ClientError."""
    ec2 = account.client("ec2")
    # EC2 refuses the whole request where one type does not exist.
    there = [str(each["InstanceType"]) for each in describe_types(ec2, types)]
    return spot_prices(ec2, there, now) if there else {}
