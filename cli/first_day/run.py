"""Run steps one after another: confirm what interrupts a node, carry out, undo, record.

Whatever ends a step, what it changed is undone before the next one: also at Ctrl-C, and where credentials expire.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from botocore.exceptions import BotoCoreError, ClientError

from cli.aws_errors import to_cli_error
from cli.core.first_day.report import Outcome, StepRecord, StepResult, failed, not_run
from cli.errors import CliError, Declined, NoAccess
from cli.first_day.day import FirstDay
from node_agent.contract.errors import SynktiError

_STYLES = {Outcome.OK: "green", Outcome.FAILED: "red", Outcome.BY_HAND: "yellow", Outcome.NOT_RUN: "dim"}


@dataclass(frozen=True)
class _Act:
    what: str
    by_hand: str
    act: Callable[[], bool]


class Undo:
    """What a step has to undo. An act is added before its change, so that the change is never without it."""

    def __init__(self) -> None:
        self._acts: list[_Act] = []

    def add(self, what: str, by_hand: str, act: Callable[[], bool]) -> None:
        """Add an act.

        Args:
            what: a sentence on what is as before, for the report.
            by_hand: what to do where the act fails.
            act: undoes the change; returns False where there was nothing to undo.
        """
        self._acts.append(_Act(what, by_hand, act))

    def run(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Run all acts, the last one first; return what was undone, and what was not, with the remedy."""
        done, left = [], []
        while self._acts:
            each = self._acts.pop()
            try:
                if each.act():
                    done.append(each.what)
            except KeyboardInterrupt:
                left.append(f"{each.by_hand} (stopped by Ctrl-C)")
            except (BotoCoreError, ClientError) as error:
                left.append(f"{each.by_hand} ({to_cli_error(error).message})")
            except CliError as error:
                left.append(f"{each.by_hand} ({error.message})")
        return tuple(done), tuple(left)


@dataclass(frozen=True)
class Step:
    """A step of the drill.

    question: to be confirmed first, because the step interrupts a node; not_embedded: why it cannot run on an embedded
    AWS, empty where it can.
    """

    name: str
    title: str
    carry_out: Callable[[FirstDay, Undo], StepResult]
    question: str = ""
    not_embedded: str = ""


def run_steps(day: FirstDay, steps: Sequence[Step]) -> tuple[tuple[StepRecord, ...], bool]:
    """Run the steps; return their records, and whether Ctrl-C stopped them."""
    records: list[StepRecord] = []
    interrupted = False
    for step in steps:
        began, start, undo = day.wall(), day.clock.now(), Undo()
        try:
            result = not_run("the drill was stopped before") if interrupted else _carry_out(day, step, undo)
        except KeyboardInterrupt:
            interrupted, result = True, not_run("stopped by Ctrl-C")
        except BaseException:
            undo.run()
            raise
        undone, left = undo.run()
        records.append(StepRecord(step.name, step.title, result, began, day.clock.now() - start, undone, left))
        _show(day, records[-1])
    return tuple(records), interrupted


def _carry_out(day: FirstDay, step: Step, undo: Undo) -> StepResult:
    if day.fleet.account.is_embedded and step.not_embedded:
        return not_run(step.not_embedded)
    try:
        if step.question:
            day.terminal.confirm(step.question, yes=day.options.yes)
        # No spinner: a step may have a question of its own.
        day.terminal.status(f"{step.title} ...")
        return step.carry_out(day, undo)
    except (Declined, NoAccess) as error:
        return not_run(error.message, error.advice)
    except CliError as error:
        return failed(error.message, error.advice)
    except (BotoCoreError, ClientError) as error:
        found = to_cli_error(error)
        return (not_run if isinstance(found, NoAccess) else failed)(found.message, found.advice)
    except SynktiError as error:
        return failed(str(error))


def _show(day: FirstDay, record: StepRecord) -> None:
    terminal, result = day.terminal, record.result
    terminal.line(f"{result.outcome.value:14}{record.title}: {result.summary}", _STYLES[result.outcome])
    if result.advice:
        terminal.line(f"{'':14}{result.advice}")
    for each in record.left:
        terminal.line(f"{'':14}not undone: {each}", "red")
