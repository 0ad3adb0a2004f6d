"""The containers' network: a bridge, and a network namespace for each container.

All of it is inside the run's own network namespace (local/boot/__main__), so that nothing of this machine's network
is changed, and nothing is left when the run ends.
"""

from __future__ import annotations

from local.boot.commands import call
from local.imds import ADDRESS

NETWORK = "10.71.0"
"""The first three numbers of the containers' addresses."""

GATEWAY = "10.71.1.1"
"""The address of the bridge, where AWS's services answer."""

_BRIDGE = "synkti0"
_PREFIX = 16
_NAMESPACES = "/run/netns"


def create_bridge() -> None:
    """Create the bridge. Raises LocalRunError."""
    call(["mkdir", "-p", _NAMESPACES])
    call(["mount", "-t", "tmpfs", "tmpfs", _NAMESPACES])  # so that no name of a namespace is left on this machine
    call(["ip", "link", "set", "lo", "up"])
    call(["ip", "link", "add", _BRIDGE, "type", "bridge"])
    call(["ip", "address", "add", f"{GATEWAY}/{_PREFIX}", "dev", _BRIDGE])
    call(["ip", "link", "set", _BRIDGE, "up"])


def namespace_path(name: str) -> str:
    """Return the path of a container's network namespace."""
    return f"{_NAMESPACES}/{name}"


def interface(address: str) -> str:
    """Return the name of the bridge's end of a container's link. Pure. It has at most 15 characters, as Linux wants."""
    return f"v{address.removeprefix('10.').replace('.', '-')}"


def create_namespace(name: str, address: str) -> None:
    """Create a container's namespace, with its address on the bridge and IMDS's on its loopback device.

    Raises LocalRunError.
    """
    outer = interface(address)
    inside = ["ip", "-netns", name]
    call(["ip", "netns", "add", name])
    call(["ip", "link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", name])
    call(["ip", "link", "set", outer, "master", _BRIDGE, "up"])
    call([*inside, "link", "set", "lo", "up"])
    call([*inside, "address", "add", f"{ADDRESS}/32", "dev", "lo"])
    call([*inside, "address", "add", f"{address}/{_PREFIX}", "dev", "eth0"])
    call([*inside, "link", "set", "eth0", "up"])
    call([*inside, "route", "add", "default", "via", GATEWAY])


def delete_namespace(name: str) -> None:
    """Delete a container's namespace, and its link with it. Raises LocalRunError."""
    call(["ip", "netns", "delete", name])
