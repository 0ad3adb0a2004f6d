"""Judge whether the hosted zone of synkti.toml can have the load balancer's name."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class HostedZone:
    """A hosted zone in Route 53. name: without the dot at its end; is_private: for queries of a VPC only."""

    name: str
    is_private: bool


def domain_problem(domain: str, zone_id: str, zone: HostedZone | None) -> tuple[str, str]:
    """Return what is wrong, and what to do; both empty where nothing is.

    Args:
        domain: the load balancer's name.
        zone_id: of synkti.toml.
        zone: that has this id; None where the account has none.

    Returns:
        A sentence and an advice.
    """
    listing = "set hosted_zone_id to the one of: aws route53 list-hosted-zones"
    if zone is None:
        return f"there is no hosted zone {zone_id} in this account", listing
    if zone.is_private:
        return f"the hosted zone {zone.name} is private: no certificate can be validated in it", listing
    if domain != zone.name and not domain.endswith(f".{zone.name}"):
        return f"{domain} is not a name of the hosted zone {zone.name}", listing
    return "", ""
