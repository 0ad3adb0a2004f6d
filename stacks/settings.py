"""What is to be deployed: one validated value, from CDK's context, all faults reported together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from typing import Any

from node_agent.contract.errors import ConfigurationError
from node_agent.contract.names import DEFAULT_CLUSTER, is_cluster_name

Context = Callable[[str], Any]


@dataclass(frozen=True)
class FleetSettings:
    """Each field is the context key of the same name: `cdk deploy -c nodes=5 -c drills=true`."""

    cluster: str = DEFAULT_CLUSTER
    """The fleet's name; every resource's name begins with it."""

    nodes: int = 3
    """Instances to keep. Three, so that a node that goes leaves two that can share its load."""

    on_demand_base: int = 0
    """Instances that are never spot: the floor on which a fleet stands when a region has no spot capacity."""

    instance_types: tuple[str, ...] = ("g6.xlarge", "g5.xlarge", "g6.2xlarge", "g5.2xlarge", "g4dn.xlarge")
    """More types mean more pools, and fewer interruptions at once."""

    model: str = "model"
    """The name of the model under `models/` in the models bucket, and what clients call it."""

    client_cidrs: tuple[str, ...] = field(default=())
    """Who may reach the front doors. None by default: a door is opened by naming who it is for."""

    root_gib: int = 100
    """The root volume: the operating system, vLLM and its CUDA libraries, the weights."""

    drills: bool = False
    """Whether events of the source synkti.drill are accepted. Whoever may put events could then start a drain."""

    local: bool = False
    """Deployed on the embedded AWS: without what it does not know (docs/architecture.md lists the differences)."""


def from_context(get: Context) -> FleetSettings:
    """get: `app.node.try_get_context`. Raises ConfigurationError with every fault there is."""
    faults: list[str] = []
    default = FleetSettings()

    def read(key: str, parse: Callable[[Any], Any]) -> Any:
        value = get(key)
        if value is None:
            return getattr(default, key)
        try:
            return parse(value)
        except (TypeError, ValueError) as error:
            faults.append(f"{key}={value!r}: {error}")
            return getattr(default, key)

    settings = FleetSettings(
        cluster=read("cluster", _cluster),
        nodes=read("nodes", lambda value: _whole(value, 1, 1_000)),
        on_demand_base=read("on_demand_base", lambda value: _whole(value, 0, 1_000)),
        instance_types=read("instance_types", _texts),
        model=read("model", str),
        client_cidrs=read("client_cidrs", lambda value: tuple(str(IPv4Network(cidr)) for cidr in _texts(value))),
        root_gib=read("root_gib", lambda value: _whole(value, 30, 16_384)),
        drills=read("drills", _switch),
        local=read("local", _switch),
    )
    if settings.on_demand_base > settings.nodes:
        faults.append(f"on_demand_base={settings.on_demand_base}: more than the {settings.nodes} nodes there are")
    if faults:
        raise ConfigurationError(faults)
    return settings


def _cluster(value: Any) -> str:
    if not is_cluster_name(str(value)):
        raise ValueError("2-20 lower case letters, digits and hyphens, beginning with a letter")
    return str(value)


def _whole(value: Any, low: int, high: int) -> int:
    number = int(value)
    if not low <= number <= high:
        raise ValueError(f"must be from {low} to {high}")
    return number


def _texts(value: Any) -> tuple[str, ...]:
    """A list, or a text with commas, as the command line gives it."""
    items = value if isinstance(value, list) else str(value).split(",")
    texts = tuple(str(item).strip() for item in items if str(item).strip())
    if not texts:
        raise ValueError("must name at least one")
    return texts


def _switch(value: Any) -> bool:
    if str(value).lower() not in ("true", "false"):
        raise ValueError("must be true or false")
    return str(value).lower() == "true"
