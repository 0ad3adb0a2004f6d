"""Generate the tables of docs/configuration.md, docs/metrics.md and docs/http-api.md from what they describe.

    python -m checks.references    writes the pages

What stands between a page's marks is generated, so that a setting, a metric or a route cannot lack its line.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from prometheus_client.metrics import MetricWrapperBase

from checks.pages import replace_block
from node_agent.core.openai.openapi import document
from node_agent.core.openai.routes import required_scope
from node_agent.runtime.common.metrics import Metrics
from node_agent.settings import from_environ
from stacks.settings import FleetSettings

ROOT = Path(__file__).parents[1]
CONFIGURATION, METRICS, API = (ROOT / "docs" / f"{name}.md" for name in ("configuration", "metrics", "http-api"))
END = "<!-- end -->"
FLEET, AGENT, TABLE, ROUTES = (
    f"<!-- {name}: made by checks/references -->" for name in ("fleet", "agent", "metrics", "routes")
)
NOT_OF_OPERATORS = {"local", "deployment"}
"""Settings that the project's own programs set."""

_PREFIXES = {"EngineSettings": "SYNKTI_ENGINE_", "TlsSettings": "SYNKTI_TLS_"}
_NAMES = re.compile(r"((?:(?:SYNKTI|AWS|RUNTIME)_[A-Z0-9_]+(?:, )?)+)[:,] ")
_MAX_SHOWN = 60


def described_fields(made: type) -> Iterator[tuple[str, str]]:
    """Yield each field of a dataclass, and its docstring in one line; "" where it has none."""
    (definition,) = ast.parse(inspect.getsource(made)).body
    if not isinstance(definition, ast.ClassDef):
        raise TypeError(f"{made} is no class")
    for statement, after in zip(definition.body, [*definition.body[1:], ast.Pass()], strict=True):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            text = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
            yield statement.target.id, " ".join(str(text).split())


def shown(value: Any) -> str:
    """Return a default as the tables show it."""
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, bool):
        text = str(value).lower()
    elif value is None or value in ("", ()):
        return "-"
    else:
        text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return f"`{text[:_MAX_SHOWN]}...`" if len(text) > _MAX_SHOWN else f"`{text}`"


def fleet_rows() -> Iterator[tuple[str, ...]]:
    """Yield the rows of the settings of synkti.toml."""
    defaults = FleetSettings()
    for name, text in described_fields(FleetSettings):
        if name not in NOT_OF_OPERATORS:
            yield f"`{name}`", shown(getattr(defaults, name)), text


def agent_rows() -> Iterator[tuple[str, ...]]:
    """Yield the rows of the agent's environment variables; the required ones have no default."""
    given = {"SYNKTI_MODEL_NAME": "MODEL", "SYNKTI_MODEL_DIR": "FOLDER"}
    yield from _variables(from_environ(given), required=given)


def _variables(settings: Any, required: Mapping[str, str]) -> Iterator[tuple[str, ...]]:
    prefix = _PREFIXES.get(type(settings).__name__, "SYNKTI_")
    for name, text in described_fields(type(settings)):
        value = getattr(settings, name)
        if (dataclasses.is_dataclass(value) and not text.startswith("SYNKTI_")) or name == "bounds":
            yield from _variables(value, required)
            continue
        named = _NAMES.match(text)
        variables = named[1].split(", ") if named else [prefix + name.upper()]
        default = "required" if variables[0] in required else shown(value)
        rest = text[named.end() :] if named else text
        yield ", ".join(f"`{each}`" for each in variables), default, rest[:1].upper() + rest[1:]


def metric_rows() -> Iterator[tuple[str, ...]]:
    """Yield the rows of the agent's metrics, by name."""
    metrics = Metrics()
    values = [*vars(metrics).values(), *vars(metrics.generations).values()]
    held = [value for value in values if isinstance(value, MetricWrapperBase)]
    for metric in sorted(held, key=lambda metric: next(iter(metric.describe())).name):
        (family,) = metric.describe()
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = ", ".join(f"`{label}`" for label in metric._labelnames) or "-"  # no other way to an unlabelled parent
        yield f"`{name}`", family.type, labels, f"{family.documentation.rstrip('.')}."


def route_rows() -> Iterator[tuple[str, ...]]:
    """Yield the rows of the client API's routes that every fleet has."""
    for path, operations in document()["paths"].items():
        scope = required_scope(path)
        summary = next(iter(operations.values()))["summary"]
        methods = ", ".join(method.upper() for method in operations)
        yield f"`{path}`", methods, "-" if scope is None else f"`{scope}`", summary


def table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    """Return a table in Markdown."""
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    lines += [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def configuration_page(page: str) -> str:
    """Return docs/configuration.md with its tables made anew. Raises ValueError as `replace_block`."""
    page = replace_block(page, FLEET, END, table(("setting", "default", "what it is"), fleet_rows()))
    return replace_block(page, AGENT, END, table(("variable", "default", "what it is"), agent_rows()))


def metrics_page(page: str) -> str:
    """Return docs/metrics.md with its table made anew. Raises ValueError as `replace_block`."""
    return replace_block(page, TABLE, END, table(("metric", "type", "labels", "what it is"), metric_rows()))


def api_page(page: str) -> str:
    """Return docs/http-api.md with its table made anew. Raises ValueError as `replace_block`."""
    return replace_block(page, ROUTES, END, table(("route", "methods", "scope", "what it is"), route_rows()))


PAGES = {CONFIGURATION: configuration_page, METRICS: metrics_page, API: api_page}

if __name__ == "__main__":
    for path, made_anew in PAGES.items():
        path.write_text(made_anew(path.read_text(encoding="utf-8")), encoding="utf-8")
