"""Read environment variables, and collect their faults until all were read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from node_agent.core.common.address import Address
from node_agent.settings import parsers as parse

_T = TypeVar("_T")


class EnvironReader:
    """Reads variables. faults: a line for each variable that is wrong, or missing, with its name."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.faults: list[str] = []

    def get(self, name: str, default: _T, parser: Callable[[str], _T]) -> _T:
        """Read a variable; the default where it is not set, or wrong, or empty and there is a default."""
        text = self._environ.get(name)
        if text is None or (text == "" and default is not None):
            return default
        try:
            return parser(text)
        except (ValueError, RecursionError) as error:
            self.faults.append(f"{name}={text!r}: {error}")
            return default

    def required(self, name: str, parser: Callable[[str], str]) -> str:
        """Read a variable that has to be set; "" where it is not."""
        if not self._environ.get(name, ""):
            self.faults.append(f"{name} is not set")
        return self.get(name, "", parser)

    def line(self, name: str, default: str) -> str:
        """Read a name, or another text of one line."""
        return self.get(name, default, parse.line)

    def optional(self, name: str, default: str = "") -> str | None:
        """Read a text; None where it is set and empty, which differs from not set."""
        if self._environ.get(name) == "":
            return None
        return self.line(name, default) or None

    def address(self, prefix: str, host: str, port: int) -> Address:
        """Read an address: the variables <prefix>_HOST and <prefix>_PORT."""
        return Address(
            self.get(f"{prefix}_HOST", host, parse.host),
            self.get(f"{prefix}_PORT", port, parse.port),
        )
