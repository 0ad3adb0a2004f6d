"""EC2's quotas for GPU instances: which one applies to a type, and how much of it nodes need.

They count vCPUs, per region, separately for spot and on-demand; spot quotas of GPU families are 0 in a new account.
Source: the EC2 User Guide, "Spot Instance quotas" and "On-Demand Instance quotas".
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

_FAMILY = re.compile(r"([a-z]+)(\d+)")


@dataclass(frozen=True)
class Quota:
    """A quota of the service ec2. code: in Service Quotas."""

    code: str
    name: str


_SPOT_G = Quota("L-3819A6DF", "All G and VT Spot Instance Requests")
_SPOT_P = Quota("L-7212CCBC", "All P4, P3 and P2 Spot Instance Requests")
_SPOT_P5 = Quota("L-C4BD4855", "All P5 Spot Instance Requests")
_DEMAND_G = Quota("L-DB2E81BA", "Running On-Demand G and VT instances")
_DEMAND_P = Quota("L-417A185B", "Running On-Demand P instances")


def quota_of(instance_type: str, *, spot: bool) -> Quota | None:
    """Return the quota of an instance type; None for a family that is not known here."""
    match = _FAMILY.match(instance_type)
    family, generation = (match[1], int(match[2])) if match else ("", 0)
    if family in ("g", "gr", "vt"):
        return _SPOT_G if spot else _DEMAND_G
    if family == "p":
        return (_SPOT_P5 if generation >= 5 else _SPOT_P) if spot else _DEMAND_P
    return None


@dataclass(frozen=True)
class QuotaNeed:
    """The vCPUs that nodes need of one quota: with its smallest type, and with its largest."""

    quota: Quota
    types: tuple[str, ...]
    min_vcpus: int
    max_vcpus: int


def quota_needs(types: Collection[str], vcpus: Mapping[str, int], nodes: int, *, spot: bool) -> tuple[QuotaNeed, ...]:
    """Return what `nodes` nodes need of each quota if all are of its types. vcpus: by type; may lack types."""
    grouped: dict[Quota, list[str]] = {}
    for each in types:
        quota = quota_of(each, spot=spot)
        if quota is not None and each in vcpus:
            grouped.setdefault(quota, []).append(each)
    return tuple(
        QuotaNeed(quota, tuple(its), nodes * min(vcpus[t] for t in its), nodes * max(vcpus[t] for t in its))
        for quota, its in grouped.items()
    )


def increase_command(quota: Quota, vcpus: int, region: str) -> str:
    """Return the command that requests an increase. vcpus: the new value."""
    return (
        f"aws service-quotas request-service-quota-increase --service-code ec2 --quota-code {quota.code} "
        f"--desired-value {vcpus} --region {region}"
    )
