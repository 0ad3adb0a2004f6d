"""What a Lambda is told by its environment variables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from node_agent.contract.errors import ConfigurationError

CLUSTER_VARIABLE = "SYNKTI_CLUSTER"
TABLE_VARIABLE = "SYNKTI_TABLE"


@dataclass(frozen=True)
class Environment:
    cluster: str
    """The fleet whose events are handled; instances of others are left alone."""

    table: str
    """The DynamoDB table: node records, pool records, and the rows of idempotency."""


def from_environ(environ: Mapping[str, str]) -> Environment:
    """Raises ConfigurationError, naming every variable that is missing."""
    missing = [name for name in (CLUSTER_VARIABLE, TABLE_VARIABLE) if not environ.get(name)]
    if missing:
        raise ConfigurationError([f"{name} is not set" for name in missing])
    return Environment(environ[CLUSTER_VARIABLE], environ[TABLE_VARIABLE])
