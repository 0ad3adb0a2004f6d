"""What `synkti doctor` has looked at, and what it may conclude: values only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias, TypeVar

from cli.core.clusters import Stack
from stacks.settings import FleetSettings


class Verdict(StrEnum):
    OK = "ok"
    WARNING = "warning"
    FAULT = "fault"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Finding:
    """check: a short name; found: a sentence; advice: what to do, empty where nothing is to be done."""

    check: str
    verdict: Verdict
    found: str
    advice: str = ""

    def document(self) -> dict[str, str]:
        return {"check": self.check, "verdict": self.verdict.value, "found": self.found, "advice": self.advice}


@dataclass(frozen=True)
class Unavailable:
    """What could not be looked at, and why."""

    reason: str


_T = TypeVar("_T")
Seen: TypeAlias = _T | Unavailable
"""A value, or why there is none."""


@dataclass(frozen=True)
class ModelSeen:
    """What lies in the bucket under the model's name. bucket: whether there is one; missing: paths of its manifest."""

    bucket: bool
    manifest: bool = False
    missing: tuple[str, ...] = ()
    digest: str = ""


@dataclass(frozen=True)
class DoctorInputs:
    """Everything that was found. Where a field is Unseen, nothing is known.

    settings: or all faults of them; node: Node's major version, None where there is none; programs: of those that
    sessions need, the ones that are there; caller: an ARN; regions: those that the account may use; vcpus: by type;
    offered: zones by type; quotas: vCPUs by code; toolkit: the version of the CDK's own stack, None where there is
    none; needed_toolkit: what the templates ask for; templates: of each stack, what CloudFormation says against it,
    "" for nothing, None where it is too long to be asked about.
    """

    settings: FleetSettings | tuple[str, ...]
    cluster: str
    region: str
    node: int | None
    programs: frozenset[str]
    account: Seen[str]
    caller: Seen[str]
    regions: Seen[frozenset[str]]
    zones: Seen[int]
    vcpus: Seen[Mapping[str, int]]
    offered: Seen[Mapping[str, frozenset[str]]]
    quotas: Seen[Mapping[str, float]]
    default_vpc: Seen[str | None]
    toolkit: Seen[int | None]
    needed_toolkit: int
    stacks: Seen[Sequence[Stack]]
    model: Seen[ModelSeen]
    templates: Seen[Mapping[str, str | None]]
