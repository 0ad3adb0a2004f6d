"""Choose deployments that together contain every allowed pair of settings, for checks of their templates.

A fault that needs two settings at once is in one of them; all combinations would be too many.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any, TypeAlias

from checks.assemblies import ACCOUNT, CIDR, IMAGE_ID, IN_A_VPC, REGION
from stacks.settings import FleetSettings, missing_ids
from stacks.settings_rules import validation_errors

Choice: TypeAlias = Mapping[str, Any]
"""Settings that are chosen together, by name."""

_CERTIFICATE = f"arn:aws:acm:{REGION}:{ACCOUNT}:certificate/0a1b"
_DOMAIN, _ZONE = "llm.example.com", "Z0123456789ABCDEFGHIJ"
_PROVIDER = f"arn:aws:iam::{ACCOUNT}:oidc-provider/token.actions.githubusercontent.com"
_PLACE = {"account": ACCOUNT, "region": REGION}
_IDS = {name: value for name, value in IN_A_VPC.items() if name.endswith(("_id", "_ids"))}

DIMENSIONS: tuple[tuple[Choice, ...], ...] = (
    ({}, _PLACE),
    ({"vpc": "new"}, {"vpc": "default", **_IDS}, {"vpc": "existing", **_IDS}),
    ({"public_addresses": True}, {"public_addresses": False}),
    ({"gateway_endpoints": True}, {"gateway_endpoints": False}),
    ({"interface_endpoints": False}, {"interface_endpoints": True}),
    ({"zones": 2}, {"zones": 3}, {"zones": 6}),
    ({"client_cidrs": ()}, {"client_cidrs": (CIDR,)}),
    ({"metrics_cidrs": ()}, {"metrics_cidrs": ("10.71.0.0/16",)}),
    ({"load_balancer": "none"}, {"load_balancer": "internal"}, {"load_balancer": "public"}),
    (
        {"domain": ""},
        {"domain": _DOMAIN, "certificate_arn": _CERTIFICATE},
        {"domain": _DOMAIN, "hosted_zone_id": _ZONE},
        {"domain": _DOMAIN, "hosted_zone_id": _ZONE, "certificate_arn": _CERTIFICATE},
    ),
    ({"bake_image": False}, {"bake_image": True}),
    ({"bake_model": False}, {"bake_model": True, "model_sha256": "a" * 64}),
    ({"image_id": ""}, {"image_id": IMAGE_ID}),
    ({"base_image_id": ""}, {"base_image_id": IMAGE_ID}),
    ({"model_load": "download"}, {"model_load": "stream"}),
    ({"model_source": ""}, {"model_source": "acme/tiny"}),
    ({"hub_token_secret": ""}, {"hub_token_secret": "hub/token"}),
    ({"scale_target": 0}, {"scale_target": 8}),
    ({"on_demand_base": 0}, {"on_demand_base": 1}),
    ({"refresh_healthy_percent": 100}, {"refresh_healthy_percent": 50}),
    ({"keep_failed_nodes": False}, {"keep_failed_nodes": True}),
    ({"compile_caches": False}, {"compile_caches": True}),
    ({"drills": False}, {"drills": True}),
    ({"alarm_email": ""}, {"alarm_email": "operator@example.com"}),
    (
        {"budget_usd": 0},
        {"budget_usd": 1_000, "alarm_email": "operator@example.com"},
        {"budget_usd": 1_000, "budget_scope": "cluster", "alarm_email": "operator@example.com"},
    ),
    (
        {"github_repository": ""},
        {"github_repository": "acme/models"},
        {"github_repository": "acme/models", "github_oidc_provider": _PROVIDER},
    ),
    ({"github_owner_id": ""}, {"github_owner_id": "4321", "github_repository_id": "987654321"}),
)
"""The choices of each setting that changes which resources there are, or what they refer to."""

_ATTEMPTS = 400
"""A pair without an allowed deployment among so many random ones counts as not allowed."""


def pairwise(dimensions: Sequence[Sequence[Choice]] = DIMENSIONS) -> Iterator[FleetSettings]:
    """Yield deployments until every allowed pair of choices was in one. The result is always the same."""
    draw = random.Random(1)  # noqa: S311 # which deployments are checked is no secret
    open_pairs = {
        ((a, i), (b, j))
        for a, b in combinations(range(len(dimensions)), 2)
        for i in range(len(dimensions[a]))
        for j in range(len(dimensions[b]))
    }
    while open_pairs:
        pair = min(open_pairs)
        found = _best_with(pair, open_pairs, dimensions, draw)
        if found is None:
            open_pairs.discard(pair)
            continue
        open_pairs -= _pairs_of(found)
        yield _settings(found, dimensions)


_Index: TypeAlias = tuple[int, int]
"""A dimension's number, and the number of one of its choices."""


def _best_with(
    pair: tuple[_Index, _Index],
    open_pairs: set[tuple[_Index, _Index]],
    dimensions: Sequence[Sequence[Choice]],
    draw: random.Random,
) -> tuple[int, ...] | None:
    """Return the allowed deployment with this pair that has most of the open pairs; None where none was found."""
    fixed = dict(pair)
    best: tuple[int, ...] | None = None
    for _ in range(_ATTEMPTS):
        tried = tuple(fixed.get(n, draw.randrange(len(choices))) for n, choices in enumerate(dimensions))
        settings = _settings(tried, dimensions)
        if validation_errors(settings) or missing_ids(settings):
            continue
        if best is None or len(_pairs_of(tried) & open_pairs) > len(_pairs_of(best) & open_pairs):
            best = tried
    return best


def _pairs_of(chosen: tuple[int, ...]) -> set[tuple[_Index, _Index]]:
    return set(combinations(enumerate(chosen), 2))


def _settings(chosen: tuple[int, ...], dimensions: Sequence[Sequence[Choice]]) -> FleetSettings:
    changes: dict[str, Any] = {}
    for number, choices in zip(chosen, dimensions, strict=True):
        changes |= choices[number]
    return replace(FleetSettings(), **changes)
