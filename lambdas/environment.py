"""Read a Lambda's configuration from its environment variables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from node_agent.contract import environment as env
from node_agent.contract.errors import ConfigurationError


@dataclass(frozen=True)
class Environment:
    """The configuration of the handlers of EC2's events."""

    cluster: str
    """The cluster whose events are handled; instances of other clusters are ignored."""

    table: str
    """The DynamoDB table: node records, pool records, and the rows of idempotency."""


@dataclass(frozen=True)
class CapacityEnvironment:
    """The configuration of the handlers that change the group."""

    cluster: str
    """The cluster's name, which the metrics carry."""

    table: str
    """The DynamoDB table, with the group's record."""

    group: str
    """The cluster's Auto Scaling group; launches of other groups are ignored."""

    on_demand_base: int
    """Instances that are never spot, as deployed."""

    on_demand_limit: int
    """The number to which the base may be raised while spot has no capacity."""


def table_from_environ(environ: Mapping[str, str]) -> str:
    """Return the table's name, which every handler needs. Raises ConfigurationError."""
    _require(environ, env.TABLE)
    return environ[env.TABLE]


def from_environ(environ: Mapping[str, str]) -> Environment:
    """Read an Environment. Raises ConfigurationError, which names every missing variable."""
    _require(environ, env.CLUSTER, env.TABLE)
    return Environment(environ[env.CLUSTER], environ[env.TABLE])


def capacity_from_environ(environ: Mapping[str, str]) -> CapacityEnvironment:
    """Read a CapacityEnvironment. Raises ConfigurationError, which names every missing or invalid variable."""
    _require(environ, env.CLUSTER, env.TABLE, env.GROUP, env.ON_DEMAND_BASE, env.ON_DEMAND_LIMIT)
    wrong = [name for name in (env.ON_DEMAND_BASE, env.ON_DEMAND_LIMIT) if not environ[name].isdigit()]
    if wrong:
        raise ConfigurationError([f"{name}={environ[name]!r} is not a whole number" for name in wrong])
    return CapacityEnvironment(
        environ[env.CLUSTER],
        environ[env.TABLE],
        environ[env.GROUP],
        int(environ[env.ON_DEMAND_BASE]),
        int(environ[env.ON_DEMAND_LIMIT]),
    )


def _require(environ: Mapping[str, str], *names: str) -> None:
    missing = [name for name in names if not environ.get(name)]
    if missing:
        raise ConfigurationError([f"{name} is not set" for name in missing])
