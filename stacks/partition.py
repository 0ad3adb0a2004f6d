"""Which partition of AWS a region is in. Fleets run in the commercial one only. Standard library only."""

from __future__ import annotations

import re

_OTHERS = (
    (re.compile(r"us-gov-"), "GovCloud"),
    (re.compile(r"cn-"), "China"),
    (re.compile(r"(us|eu)-iso[a-z]?-"), "an isolated partition"),
    (re.compile(r"eusc-"), "the European Sovereign Cloud"),
)


def partition_problem(region: str) -> str:
    """Return why a fleet cannot run in a region, by its name; empty where its partition is the commercial one.

    The layer with Powertools, AWS's GPU images and the roles' ARNs that the workflow uses are those of the commercial
    partition (`aws`). In another one a deployment would fail after it has created some resources.
    """
    for pattern, name in _OTHERS:
        if pattern.match(region):
            return f"{region} is in {name}, which is not supported; choose a region of AWS's commercial partition"
    return ""
