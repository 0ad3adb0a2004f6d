"""The list of ports, derived from the modules of `node_agent/ports`, so that a new port cannot be missed."""

from __future__ import annotations

import inspect
from importlib import import_module
from pkgutil import iter_modules

from node_agent import ports


def protocols() -> dict[str, type]:
    """Return each protocol that the package or one of its modules defines, by name, exported or not."""
    modules = (ports, *(import_module(f"{ports.__name__}.{each.name}") for each in iter_modules(ports.__path__)))
    return {
        name: port
        for module in modules
        for name, port in vars(module).items()
        if inspect.isclass(port) and getattr(port, "_is_protocol", False) and port.__module__ == module.__name__
    }


def methods(port: type) -> set[str]:
    """Return the names of a port's public methods and properties."""
    return {name for name in vars(port) if not name.startswith("_")}
