"""The inputs and findings of `synkti doctor`: values only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from cli.core.account_facts import AccountFacts
from cli.core.clusters import Stack
from cli.core.result import Result
from node_agent.core.sizing.facts import ModelFiles
from node_agent.core.sizing.gpus import InstanceGpus, Unusable
from stacks.settings import FleetSettings


class Verdict(StrEnum):
    """The result of a check."""

    OK = "ok"
    WARNING = "warning"
    FAULT = "fault"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Finding:
    """A check's result. check: a short name; found: a sentence; advice: what to do, may be empty."""

    check: str
    verdict: Verdict
    found: str
    advice: str = ""

    def document(self) -> dict[str, str]:
        """Return the finding as `--json` prints it."""
        return {"check": self.check, "verdict": self.verdict.value, "found": self.found, "advice": self.advice}


@dataclass(frozen=True)
class ModelState:
    """The model in the bucket. bucket, manifest: whether they exist; missing: files of the manifest without object."""

    bucket: bool
    manifest: bool = False
    missing: tuple[str, ...] = ()
    digest: str = ""


@dataclass(frozen=True)
class DoctorInputs:
    """Everything that was collected."""

    facts: AccountFacts

    settings: FleetSettings | tuple[str, ...]
    """Valid settings, or their faults."""

    cluster: str
    region: str
    node_version: int | None
    """Node.js's major version; None where it is not installed."""

    programs: frozenset[str]
    """The installed ones of the programs that sessions need."""

    account: Result[str]
    caller: Result[str]
    """The ARN of the credentials' principal."""

    regions: Result[frozenset[str]]
    """The regions that the account may use."""

    zones: Result[int]
    vcpus: Result[Mapping[str, int]]
    """By instance type."""

    gpus: Result[Mapping[str, InstanceGpus | Unusable]]
    """By instance type."""

    offerings: Result[Mapping[str, frozenset[str]]]
    """Zones by instance type."""

    quotas: Result[Mapping[str, float]]
    """vCPUs by quota code."""

    default_vpc: Result[str | None]
    toolkit: Result[int | None]
    """The version of the CDK's own stack; None where there is none."""

    required_toolkit: int
    """The version that the templates require."""

    stacks: Result[Sequence[Stack]]
    model: Result[ModelState]
    files: Result[ModelFiles | None]
    """What the model's size is computed from; None where there is no model."""

    lacking_packages: Result[tuple[str, ...] | None]
    """The sets of packages that the wheelhouse lacks; None where there is no models bucket."""

    templates: Result[Mapping[str, str | None]]
    """CloudFormation's error by stack: "" for none, None where the template is too long to validate."""

    fleets: Result[Sequence[Sequence[str]]] = ()
    """The nodes in groups that share a cluster key, the largest first."""

    counts_tag: Result[bool | None] = None
    """Whether bills are split by the cluster's tag, which a budget of the cluster needs; None: no budget needs it."""

    has_file: bool = True
    """Whether a synkti.toml was found; without one the settings are the defaults."""
