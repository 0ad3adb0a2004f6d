"""What a Lambda is told by its environment variables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from node_agent.contract.errors import ConfigurationError

CLUSTER_VARIABLE = "SYNKTI_CLUSTER"
TABLE_VARIABLE = "SYNKTI_TABLE"
GROUP_VARIABLE = "SYNKTI_GROUP"
BASE_VARIABLE = "SYNKTI_ON_DEMAND_BASE"
LIMIT_VARIABLE = "SYNKTI_ON_DEMAND_LIMIT"


@dataclass(frozen=True)
class Environment:
    cluster: str
    """The fleet whose events are handled; instances of others are left alone."""

    table: str
    """The DynamoDB table: node records, pool records, and the rows of idempotency."""


@dataclass(frozen=True)
class CapacityEnvironment:
    table: str
    """The DynamoDB table, with the group's record."""

    group: str
    """The fleet's Auto Scaling group; launches of others are left alone."""

    base: int
    """Instances that are never spot, as deployed."""

    limit: int
    """How far that may be raised while spot has no capacity."""


def table_from_environ(environ: Mapping[str, str]) -> str:
    """What every handler has. Raises ConfigurationError."""
    _require(environ, TABLE_VARIABLE)
    return environ[TABLE_VARIABLE]


def from_environ(environ: Mapping[str, str]) -> Environment:
    """Raises ConfigurationError, naming every variable that is missing."""
    _require(environ, CLUSTER_VARIABLE, TABLE_VARIABLE)
    return Environment(environ[CLUSTER_VARIABLE], environ[TABLE_VARIABLE])


def capacity_from_environ(environ: Mapping[str, str]) -> CapacityEnvironment:
    """Raises ConfigurationError, naming every variable that is missing or no number."""
    _require(environ, TABLE_VARIABLE, GROUP_VARIABLE, BASE_VARIABLE, LIMIT_VARIABLE)
    wrong = [name for name in (BASE_VARIABLE, LIMIT_VARIABLE) if not environ[name].isdigit()]
    if wrong:
        raise ConfigurationError([f"{name}={environ[name]!r} is not a whole number" for name in wrong])
    return CapacityEnvironment(
        environ[TABLE_VARIABLE], environ[GROUP_VARIABLE], int(environ[BASE_VARIABLE]), int(environ[LIMIT_VARIABLE])
    )


def _require(environ: Mapping[str, str], *names: str) -> None:
    missing = [name for name in names if not environ.get(name)]
    if missing:
        raise ConfigurationError([f"{name} is not set" for name in missing])
