"""The report of `synkti drill first-day`, as JSON and as Markdown, without secrets and account numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from cli.core.first_day.redaction import Fact, Redactor
from node_agent.contract.timestamps import format_instant

FORMAT = 1
"""The version of the JSON document; it changes where a key changes its meaning."""


class Outcome(StrEnum):
    """What a step found."""

    OK = "ok"
    FAILED = "failed"
    BY_HAND = "check by hand"
    """The part that a program can check is right; a person has to look at the rest."""

    NOT_RUN = "not run"


@dataclass(frozen=True)
class StepResult:
    """The result of one step. facts: what was measured; the unit is last in each name."""

    outcome: Outcome
    summary: str
    advice: str = ""
    facts: Mapping[str, Fact] = field(default_factory=dict)


def passed(summary: str, **facts: Fact) -> StepResult:
    """Return the result of a step that found what it expected."""
    return StepResult(Outcome.OK, summary, "", facts)


def failed(summary: str, advice: str = "", **facts: Fact) -> StepResult:
    """Return the result of a step that found something wrong."""
    return StepResult(Outcome.FAILED, summary, advice, facts)


def not_run(reason: str, advice: str = "", **facts: Fact) -> StepResult:
    """Return the result of a step that could not run, or not to its end. reason: why."""
    return StepResult(Outcome.NOT_RUN, reason, advice, facts)


@dataclass(frozen=True)
class StepRecord:
    """A step in the report. began: unix seconds; undone: its changes that were undone; left: those that were not."""

    name: str
    title: str
    result: StepResult
    began: float
    took_s: float
    undone: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """All steps, and what they ran on. environment: versions, region, types; began: unix seconds."""

    environment: Mapping[str, Fact]
    began: float
    took_s: float
    steps: tuple[StepRecord, ...]
    interrupted: bool = False
    """True where it was stopped before its end."""

    @property
    def failed(self) -> tuple[StepRecord, ...]:
        """The steps that found something wrong, or left something behind."""
        return tuple(step for step in self.steps if step.result.outcome is Outcome.FAILED or step.left)

    def redacted(self, redactor: Redactor) -> Report:
        """Return the report without secrets."""
        steps = tuple(
            replace(
                step,
                result=replace(
                    step.result,
                    summary=redactor.text(step.result.summary),
                    advice=redactor.text(step.result.advice),
                    facts=redactor.facts(step.result.facts),
                ),
                undone=redactor.texts(step.undone),
                left=redactor.texts(step.left),
            )
            for step in self.steps
        )
        return replace(self, environment=redactor.facts(self.environment), steps=steps)

    def document(self) -> dict[str, Any]:
        """Return the report as `--json` prints it; instants in ISO 8601."""
        return {
            "format": FORMAT,
            "began": format_instant(self.began),
            "took_s": round(self.took_s, 1),
            "interrupted": self.interrupted,
            "environment": dict(self.environment),
            "steps": [
                {
                    "step": step.name,
                    "title": step.title,
                    "outcome": step.result.outcome.value,
                    "summary": step.result.summary,
                    "advice": step.result.advice,
                    "facts": dict(step.result.facts),
                    "began": format_instant(step.began),
                    "took_s": round(step.took_s, 1),
                    "undone": list(step.undone),
                    "left": list(step.left),
                }
                for step in self.steps
            ],
        }

    def markdown(self) -> str:
        """Return the report as a page that can be attached to an issue."""
        lines = ["# Synkti: the first day", "", f"{format_instant(self.began)}, {self.took_s / 60:.0f} minutes."]
        if self.interrupted:
            lines.append("It was stopped before its end.")
        lines += ["", f"**{self.summary}**", "", "| step | outcome | what was found | took |", "|---|---|---|---|"]
        for step in self.steps:
            result = step.result
            found = f"{result.summary}. *Do:* {result.advice}" if result.advice else result.summary
            lines.append(f"| {_cell(step.title)} | {result.outcome.value} | {_cell(found)} | {step.took_s:.0f} s |")
        lines += ["", "## Measured", "", "| step | what | value |", "|---|---|---|"]
        for step in self.steps:
            lines += [f"| {step.name} | `{key}` | {_cell(_shown(value))} |" for key, value in step.result.facts.items()]
        lines += _undo_lines(self.steps)
        lines += ["", "## Where", "", "| what | value |", "|---|---|"]
        lines += [f"| {key} | {_cell(_shown(value))} |" for key, value in self.environment.items()]
        return "\n".join(lines) + "\n"

    @property
    def summary(self) -> str:
        """The number of steps by outcome: "3 ok, 1 not run"."""
        counts = Counter(step.result.outcome for step in self.steps)
        return ", ".join(f"{counts[outcome]} {outcome.value}" for outcome in Outcome if counts[outcome])


def _undo_lines(steps: Sequence[StepRecord]) -> list[str]:
    lines = [f"- {each}" for step in steps for each in step.undone]
    found = ["", "## Undone", "", *lines] if lines else []
    left = [f"- {each}" for step in steps for each in step.left]
    return found + (["", "## Not undone: do this by hand", "", *left] if left else [])


def _shown(value: Fact) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "not known"
    return ", ".join(value) if isinstance(value, list) else str(value)


def _cell(text: str) -> str:
    """Return a text that stays within its cell of a table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
