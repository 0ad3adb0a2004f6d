"""Derive from a deployment's settings and its load what AWS bills, line by line.

What costs less than five cents a node and month is left out: gossip between nodes, and requests to Secrets Manager
for the cluster's key (each node reads it every five minutes, $0.04). The numbers of alarms, metrics, functions and
dashboards are those of the templates, which a test compares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from cli.core.cost.line import Line, number, price, priced
from cli.core.cost.prices import Item, Prices
from cli.core.cost.workload import GB, HOURS, REPLICAS, SECONDS, Clients, Scenario
from stacks.endpoints import INTERFACE_SERVICES

FUNCTIONS = 6
ALARM_METRICS = 2 * FUNCTIONS + 9
"""Metrics that alarms watch: two of each function, two for missing nodes, and seven more (one less for one node)."""

SCALING_ALARMS = 2
"""Auto Scaling makes them for its target."""

STEADY_METRICS = 5
"""Custom metrics with values in every hour: requests in flight, and what the scheduled check publishes. Those of the
promise have values only in hours in which streams were continued or broken."""

FREE_MIB_PER_S = 125
"""The throughput of a gp3 volume that costs nothing."""

CHECKS_PER_MONTH = HOURS * 12
"""A function looks at the fleet every five minutes."""

_FUNCTION_GB_SECONDS = 0.25 * 0.5
"""Of one call: 256 MB for half a second."""

_WRITES, _READS = 3, 3
"""Of one call: the rows that make a repeated event harmless, and a record."""

_RECORD_WRITES_PER_S = 2 / 15
"""Of a node's record of its open streams: every 15 s, and a write for each KB of it, which is about ten streams."""

_EVENTS_PER_BOOT = 4
"""Events that functions handle for each instance that starts or ends."""

_METRIC_REQUESTS = HOURS * 60
"""Of a node: one a minute."""

_WHEELHOUSE_GB = 4.0
"""Packages that nodes install, in the models bucket: vLLM and its CUDA libraries. An estimate."""

REPLACEMENT_H = 10 / 60
"""How long a replacement runs before it serves, beside the node that it replaces."""

_RANGE_GB = 0.008
"""Of the model, in one request to S3."""

_LOG_BYTES_PER_S = 80.0
"""Of an idle node: a line for each of the watchdog's probes every three seconds, vLLM's figures every ten, the agent's
lines, and the journal's prefixes."""

_LOG_BYTES_PER_REQUEST = 150.0
"""vLLM's line of each request, with the journal's prefix."""

_AUDIT_BYTES_PER_REQUEST = 350.0
"""A line of the audit log."""

_KEY_READ_S = 15.0
"""A node reads the clients' keys once in that time (`node_agent/adapters/key_stores`)."""

_TLS_LIMITS, _TCP_LIMITS = (50.0, 3_000.0), (800.0, 100_000.0)
"""New connections a second, and open connections, of one capacity unit. Source: "Elastic Load Balancing pricing"."""


def all_lines(scenario: Scenario, prices: Prices) -> list[Line]:
    """Return every line of the bill, those that cost nothing left out. Raises KeyError as `hourly_prices`."""
    parts: tuple[Callable[[Scenario, Prices], Iterator[Line]], ...] = (
        _instances,
        _volumes,
        _addresses,
        _traffic,
        _nat,
        _endpoints,
        _balancer,
        _monitoring,
        _storage,
    )
    return [line for part in parts for line in part(scenario, prices) if line.dollars > 0]


def hourly_prices(scenario: Scenario, prices: Prices) -> tuple[float, float]:
    """Return the prices of a spot and of an on-demand instance, in dollars an hour.

    On demand, Auto Scaling launches the first of the types. On spot it takes the pools with the most capacity among the
    cheap ones: the mean of all types, or the dearest. Raises KeyError with a type whose price is not known.
    """
    types = scenario.settings.instance_types
    share = scenario.load.spot_share
    spot = [prices.spot[each] if each in prices.spot else share * prices.on_demand[each] for each in types]
    return max(spot) if scenario.dearest else sum(spot) / len(spot), prices.on_demand[types[0]]


def _instances(scenario: Scenario, prices: Prices) -> Iterator[Line]:
    spot, on_demand = hourly_prices(scenario, prices)
    spots = scenario.nodes - scenario.on_demand
    first = scenario.settings.instance_types[0]
    which = "the dearest" if scenario.dearest else "the mean"
    of = first if len(scenario.settings.instance_types) == 1 else f"{which} of {len(scenario.settings.instance_types)}"
    yield Line(f"instances on spot ({of})", f"{number(spots)} x 730 h x ${spot:.3f}", spots * HOURS * spot)
    yield Line(
        f"instances on demand ({first})",
        f"{number(scenario.on_demand)} x 730 h x {price(on_demand)}",
        scenario.on_demand * HOURS * on_demand,
    )
    if spots:
        replaced = scenario.boots - scenario.nodes
        minutes = REPLACEMENT_H * 60
        yield Line(
            "replacements of interrupted nodes, until they serve",
            f"{number(replaced)} x {minutes:.0f} min x ${spot:.3f} an hour",
            replaced * REPLACEMENT_H * spot,
        )


def _volumes(scenario: Scenario, prices: Prices) -> Iterator[Line]:
    settings, nodes = scenario.settings, scenario.nodes
    yield priced("root volumes", nodes, f" x {settings.root_gib} GB", Item.VOLUME, prices, each=settings.root_gib)
    extra = settings.root_mib_per_s - FREE_MIB_PER_S
    yield priced("their throughput", nodes, f" x {extra} MiB/s", Item.VOLUME_THROUGHPUT, prices, each=extra)


def _addresses(scenario: Scenario, prices: Prices) -> Iterator[Line]:
    of_balancer = scenario.subnets if scenario.settings.load_balancer == "public" else 0
    of_nodes = scenario.nodes if scenario.settings.public_addresses else 0
    amount = of_nodes + of_balancer
    yield priced("public IPv4 addresses", amount, " x 730 h", Item.PUBLIC_ADDRESS, prices, each=HOURS)


def _traffic(scenario: Scenario, prices: Prices) -> Iterator[Line]:
    load, share = scenario.load, scenario.share_between_zones
    forwarded = (load.stream_gb + load.prompt_gb) * share
    yield _between_zones("streams of an engine in another zone", forwarded, prices)
    copies = min(REPLICAS, max(0, int(scenario.nodes) - 1)) if share else 0
    yield _between_zones(f"journals at {copies} replicas in other zones", load.journal_gb * copies, prices)
    if scenario.clients is Clients.INTERNET:
        dollars = prices.internet_dollars(load.stream_gb)
        yield Line("streams to clients on the internet", _internet_words(load.stream_gb, prices), dollars)
    else:
        in_vpc = (load.stream_gb + load.prompt_gb) * share
        yield _between_zones("streams to clients in other zones of the VPC", in_vpc, prices)


def _between_zones(what: str, gb: float, prices: Prices) -> Line:
    return priced(what, gb, " GB x 2 directions", Item.BETWEEN_ZONES, prices, each=2)


def _internet_words(gb: float, prices: Prices) -> str:
    first = prices.internet[0]
    if gb <= first.up_to:
        return f"{number(gb)} GB x {price(first.dollars)}"
    return f"{number(gb)} GB, from {price(first.dollars)} a GB down to {price(prices.internet[-1].dollars)}"


def _nat(scenario: Scenario, prices: Prices) -> Iterator[Line]:
    gateways = scenario.load.nat_gateways
    if not scenario.uses_nat or not gateways:
        return
    yield priced("NAT gateways of the existing VPC", gateways, " x 730 h", Item.NAT_GATEWAY, prices, each=HOURS)
    # Packages, model and records do not pass them: they come from S3 and DynamoDB, through gateway endpoints.
    yield priced("logs through them", _log_gb(scenario), " GB", Item.NAT_GATEWAY_DATA, prices)


def _endpoints(scenario: Scenario, prices: Prices) -> Iterator[Line]:
    if not scenario.settings.interface_endpoints:
        return
    amount = len(INTERFACE_SERVICES) * scenario.subnets
    what = f"interface endpoints of {len(INTERFACE_SERVICES)} services"
    yield priced(what, amount, " x 730 h", Item.ENDPOINT, prices, each=HOURS)
    yield priced("logs through them", _log_gb(scenario), " GB", Item.ENDPOINT_DATA, prices)


def _balancer(scenario: Scenario, prices: Prices) -> Iterator[Line]:
    settings, load = scenario.settings, scenario.load
    if settings.load_balancer == "none":
        return
    yield priced("load balancer", 1, " x 730 h", Item.BALANCER, prices, each=HOURS)
    passed = load.stream_gb + load.prompt_gb
    new, held = _TLS_LIMITS if settings.certificate_arn else _TCP_LIMITS
    units = max(passed / HOURS, load.requests_per_s / new, load.open_streams / held)
    yield priced("its capacity units (LCU)", units, " x 730 h", Item.BALANCER_UNIT, prices, each=HOURS)
    share = scenario.share_between_zones
    yield _between_zones("streams between it and nodes in other zones", passed * share, prices)


def _monitoring(scenario: Scenario, prices: Prices) -> Iterator[Line]:
    settings, nodes = scenario.settings, scenario.nodes
    alarms = ALARM_METRICS - (not settings.has_peers) + (SCALING_ALARMS if settings.is_autoscaled else 0)
    yield priced("alarms", alarms, "", Item.ALARM, prices)
    metrics = STEADY_METRICS if nodes else STEADY_METRICS - 1
    yield priced("custom metrics", metrics, "", Item.METRIC, prices)
    yield priced("dashboard", 1, "", Item.DASHBOARD, prices)
    yield priced("requests that publish metrics", nodes * _METRIC_REQUESTS, "", Item.METRIC_REQUEST, prices)
    logged = _log_gb(scenario)
    yield priced("logs, written", logged, " GB", Item.LOG, prices)
    kept = logged * settings.log_days / (HOURS / 24)
    yield priced(f"logs, kept for {settings.log_days} days", kept, " GB", Item.LOG_STORAGE, prices)


def _log_gb(scenario: Scenario) -> float:
    of_nodes = scenario.nodes * _LOG_BYTES_PER_S
    audited = _AUDIT_BYTES_PER_REQUEST if scenario.settings.audit_log else 0.0
    of_requests = scenario.load.requests_per_s * (_LOG_BYTES_PER_REQUEST + audited)
    return (of_nodes + of_requests) * SECONDS / GB


def _storage(scenario: Scenario, prices: Prices) -> Iterator[Line]:
    settings, load = scenario.settings, scenario.load
    yield priced("models bucket: the model", load.model_gb, " GB", Item.OBJECT, prices)
    yield priced("models bucket: packages that nodes install", _WHEELHOUSE_GB, " GB", Item.OBJECT, prices)
    if not settings.bake_model:
        reads = scenario.boots * load.model_gb / _RANGE_GB
        yield priced("reads of the model by nodes that start", reads, "", Item.OBJECT_READ, prices)
    if settings.bake_image:
        yield priced("the image's snapshot, at most", settings.root_gib, " GB", Item.SNAPSHOT, prices)
    yield priced("the peers' and the clients' keys in Secrets Manager", 2, "", Item.SECRET, prices)
    if settings.api_keys:
        reads = scenario.nodes * SECONDS / _KEY_READ_S
        yield priced("reads of the clients' keys", reads, "", Item.SECRET_REQUEST, prices)
    writes = scenario.nodes * _RECORD_WRITES_PER_S * SECONDS
    yield priced("records of open streams", writes, "", Item.TABLE_WRITE, prices)
    calls = CHECKS_PER_MONTH + scenario.boots * _EVENTS_PER_BOOT
    each = (
        prices.of(Item.FUNCTION_REQUEST)
        + _FUNCTION_GB_SECONDS * prices.of(Item.FUNCTION_TIME)
        + _WRITES * prices.of(Item.TABLE_WRITE)
        + _READS * prices.of(Item.TABLE_READ)
        + prices.of(Item.TRACE)
    )
    yield Line("Lambda, DynamoDB and X-Ray", f"{number(calls)} calls x {price(each)}", calls * each)
