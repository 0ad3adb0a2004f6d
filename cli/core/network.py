"""An existing VPC as nodes need it: which subnets to use, and whether nodes there reach what they need.

Sources: the VPC User Guide ("Configure route tables": the main table counts where a subnet has none of its own), the
AWS PrivateLink guide (the names of the services' endpoints).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from stacks.endpoints import GATEWAY_SERVICES, INTERFACE_SERVICES
from stacks.settings import FleetSettings


class WayOut(StrEnum):
    """Where the default route of a subnet leads."""

    INTERNET = "internet"
    """To an internet gateway: instances need public addresses."""

    INDIRECT = "indirect"
    """To a NAT gateway, a transit gateway or an appliance: instances need none."""

    NONE = "none"


@dataclass(frozen=True)
class Subnet:
    """A subnet. zone: its Availability Zone; free_addresses: how many instances it has room for."""

    subnet_id: str
    zone: str
    free_addresses: int
    route_table_id: str
    way_out: WayOut


@dataclass(frozen=True)
class Vpc:
    """A VPC. endpoints: the services that it has endpoints for, such as `s3`."""

    vpc_id: str
    subnets: tuple[Subnet, ...]
    endpoints: frozenset[str] = frozenset()


def parse_vpc(
    vpc_id: str, subnets: Iterable[Mapping[str, Any]], tables: Iterable[Mapping[str, Any]], endpoints: Iterable[str]
) -> Vpc:
    """Combine EC2's descriptions of a VPC's subnets and route tables. endpoints: the names of their services."""
    by_subnet: dict[str, Mapping[str, Any]] = {}
    main: Mapping[str, Any] = {}
    for table in tables:
        for association in table.get("Associations", ()):
            if association.get("Main"):
                main = table
            elif "SubnetId" in association:
                by_subnet[association["SubnetId"]] = table
    return Vpc(
        vpc_id,
        tuple(_subnet(each, by_subnet.get(each["SubnetId"], main)) for each in subnets),
        frozenset(name.rpartition(".")[2] for name in endpoints),
    )


def _subnet(described: Mapping[str, Any], table: Mapping[str, Any]) -> Subnet:
    return Subnet(
        described["SubnetId"],
        described.get("AvailabilityZone", ""),
        int(described.get("AvailableIpAddressCount", 0)),
        table.get("RouteTableId", ""),
        _way_out(table.get("Routes", ())),
    )


def _way_out(routes: Iterable[Mapping[str, Any]]) -> WayOut:
    default = [each for each in routes if each.get("DestinationCidrBlock") == "0.0.0.0/0"]  # no address to listen on
    for route in default:
        if route.get("State", "active") != "active":
            continue
        return WayOut.INTERNET if str(route.get("GatewayId", "")).startswith("igw-") else WayOut.INDIRECT
    return WayOut.NONE


def choose_subnets(vpc: Vpc, *, public: bool) -> tuple[Subnet, ...]:
    """Return the subnets for nodes, one for each zone: that with the most room.

    Args:
        vpc: where to choose.
        public: nodes have public addresses. Otherwise subnets with an indirect way out are chosen; where there are
            none, those without any.
    """
    wanted = (WayOut.INTERNET,) if public else (WayOut.INDIRECT, WayOut.NONE)
    for way in wanted:
        fitting = sorted((s for s in vpc.subnets if s.way_out is way), key=lambda s: (-s.free_addresses, s.subnet_id))
        by_zone: dict[str, Subnet] = {}
        for subnet in fitting:
            by_zone.setdefault(subnet.zone, subnet)
        if by_zone:
            return tuple(by_zone[zone] for zone in sorted(by_zone))
    return ()


def found_ids(settings: FleetSettings, vpc: Vpc) -> dict[str, str | tuple[str, ...]]:
    """Return the ids that the settings lack, by setting; without subnets where none fits."""
    known = {subnet.subnet_id: subnet for subnet in vpc.subnets}
    chosen = settings.subnet_ids or tuple(s.subnet_id for s in choose_subnets(vpc, public=settings.public_addresses))
    tables = tuple(dict.fromkeys(known[each].route_table_id for each in chosen if each in known))
    found: dict[str, str | tuple[str, ...]] = {}
    if not settings.vpc_id:
        found["vpc_id"] = vpc.vpc_id
    if not settings.subnet_ids and chosen:
        found["subnet_ids"] = chosen
    if settings.gateway_endpoints and not settings.route_table_ids and tables:
        found["route_table_ids"] = tables
    return found


def network_problem(settings: FleetSettings, vpc: Vpc) -> tuple[str, str]:
    """Return what keeps nodes in the configured subnets from what they need, and what to do; empty where nothing does.

    Only for an existing VPC with its ids set.
    """
    known = {subnet.subnet_id: subnet for subnet in vpc.subnets}
    if strange := [each for each in settings.subnet_ids if each not in known]:
        return f"{', '.join(strange)} not in {vpc.vpc_id}", "subnet_ids has to name subnets of vpc_id"
    subnets = [known[each] for each in settings.subnet_ids]
    public = WayOut.INTERNET
    if settings.public_addresses:
        closed = [s.subnet_id for s in subnets if s.way_out is WayOut.NONE]
        return (f"{', '.join(closed)}: no route to the internet", _OPEN) if closed else ("", "")
    if wrong := [s.subnet_id for s in subnets if s.way_out is public]:
        found = f"{', '.join(wrong)}: an internet gateway is the way out, and nodes have no public addresses"
        return found, "set public_addresses = true, or name subnets behind a NAT gateway"
    isolated = isolated_subnets(settings, vpc)
    return _isolated(settings, vpc, isolated) if isolated else ("", "")


def isolated_subnets(settings: FleetSettings, vpc: Vpc) -> tuple[str, ...]:
    """Return those of the configured subnets from which nothing outside the VPC is reached, but for endpoints."""
    chosen = frozenset(settings.subnet_ids)
    return tuple(each.subnet_id for each in vpc.subnets if each.subnet_id in chosen and each.way_out is WayOut.NONE)


_OPEN = "name subnets with a route to an internet gateway, or set public_addresses = false for private ones"


def _isolated(settings: FleetSettings, vpc: Vpc, subnets: tuple[str, ...]) -> tuple[str, str]:
    made = GATEWAY_SERVICES if settings.gateway_endpoints else frozenset()
    made |= INTERFACE_SERVICES if settings.interface_endpoints else frozenset()
    lacking = sorted((INTERFACE_SERVICES | GATEWAY_SERVICES) - vpc.endpoints - made)
    where = f"{', '.join(subnets)}: no way out"
    if lacking:
        return (
            f"{where}, and no endpoints for {', '.join(lacking)}",
            "set interface_endpoints = true, or add a NAT gateway",
        )
    if settings.bake_image and not settings.image_id:
        return (
            f"{where}, and an image build in the first of them has to reach EC2 Image Builder",
            "set bake_image = false, since nodes install from the models bucket, or add a NAT gateway",
        )
    return "", ""
