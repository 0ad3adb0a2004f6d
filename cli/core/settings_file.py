"""Write settings into the text of synkti.toml, and leave every other line of it as it is."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from typing import Any, TypeAlias

from cli.errors import Failed

Value: TypeAlias = str | int | tuple[str, ...]


def with_settings(text: str, values: Mapping[str, Value]) -> str:
    """Return the text with these settings.

    A setting's line is replaced, with its comment kept; else its commented-out default is; else a line is added.

    Args:
        text: of a settings' file, valid TOML.
        values: by setting, numbers, texts or lists of texts; these without quotes and backslashes.

    Raises:
        Failed: the file is written in a way that this cannot change, such as a list over several lines.
    """
    changed = text
    for name, value in values.items():
        changed = _with_setting(changed, name, f"{name} = {rendered(value)}")
    wanted = {**tomllib.loads(text), **{name: _plain(value) for name, value in values.items()}}
    if _parsed(changed) != wanted:
        raise Failed("synkti.toml could not be changed", "add these lines yourself:\n" + lines_of(values))
    return changed


def lines_of(values: Mapping[str, Value]) -> str:
    """Return the settings as lines of the file."""
    return "\n".join(f"{name} = {rendered(value)}" for name, value in values.items())


def rendered(value: Value) -> str:
    """Return a value in TOML."""
    if isinstance(value, int):
        return str(value)
    return f'"{value}"' if isinstance(value, str) else "[" + ", ".join(f'"{each}"' for each in value) + "]"


_VALUE = r"(\"[^\"]*\"|\[[^\]\n]*\]|[^#\n]*?)"
"""A text, a list, or a number, on one line."""


def _with_setting(text: str, name: str, line: str) -> str:
    for mark in ("", "# "):
        found = re.search(
            rf"^{mark}{name} *= *(\"[^\"]*\"|\[[^\]\n]*\]|[^#\n]*?)(?P<comment> *#.*)?$", text, re.MULTILINE
        )
        if found is not None:
            comment = found["comment"] or ""
            if mark and comment:  # its column was that of the comments of defaults
                comment = "  " + comment.strip()
            return text[: found.start()] + line + comment + text[found.end() :]
    return text + ("" if text.endswith("\n") or not text else "\n") + line + "\n"


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError):
        return None


def _plain(value: Value) -> str | int | list[str]:
    return list(value) if isinstance(value, tuple) else value
