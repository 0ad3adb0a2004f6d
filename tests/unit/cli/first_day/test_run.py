"""Whatever ends a step, what it changed is undone, and the report has it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
from botocore.exceptions import ClientError

from cli.core.first_day.report import Outcome, StepResult, passed
from cli.errors import Failed, NoAccess
from cli.first_day.day import DayOptions, FirstDay
from cli.first_day.run import Step, Undo, run_steps
from cli.fleet import Fleet
from cli.terminal import Terminal
from node_agent.contract.errors import StoreUnavailable
from tests.unit.cli.fake_clock import FakeClock


class FakeAccount:
    def __init__(self, *, is_embedded: bool) -> None:
        self.is_embedded = is_embedded


def day(*, embedded: bool = False, yes: bool = True) -> FirstDay:
    clock = FakeClock()
    fleet = Fleet(cast(Any, FakeAccount(is_embedded=embedded)), "synkti", ())
    return FirstDay(Terminal(True), fleet, DayOptions(yes=yes), clock.clock, lambda: 1_764_000_000.0 + clock.at)


def client_error(code: str) -> ClientError:
    body: Any = {"Error": {"Code": code, "Message": "no"}}
    return ClientError(body, "SetAlarmState")


def step(carry_out: Callable[[FirstDay, Undo], StepResult], **given: str) -> Step:
    return Step("one", "One", carry_out, **given)


def doing(undone: list[str], what: str) -> Callable[[], bool]:
    def act() -> bool:
        undone.append(what)
        return True

    return act


def raising(error: BaseException, undone: list[str]) -> Step:
    """A step that changes two things, and then fails."""

    def carry_out(day: FirstDay, undo: Undo) -> StepResult:
        undo.add("the first is as before", "mend the first", doing(undone, "first"))
        undo.add("the second is as before", "mend the second", doing(undone, "second"))
        raise error

    return step(carry_out)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (Failed("it failed", "do this"), Outcome.FAILED),
        (NoAccess("not allowed"), Outcome.NOT_RUN),
        (client_error("AccessDenied"), Outcome.NOT_RUN),
        (client_error("ExpiredToken"), Outcome.NOT_RUN),
        (client_error("ValidationError"), Outcome.FAILED),
        (StoreUnavailable("away"), Outcome.FAILED),
        (KeyboardInterrupt(), Outcome.NOT_RUN),
    ],
)
def test_a_step_that_fails_is_undone_the_last_change_first(error: BaseException, outcome: Outcome) -> None:
    undone: list[str] = []
    (record,), interrupted = run_steps(day(), [raising(error, undone)])
    assert undone == ["second", "first"]
    assert record.undone == ("the second is as before", "the first is as before")
    assert record.result.outcome is outcome
    assert interrupted is isinstance(error, KeyboardInterrupt)


def test_after_ctrl_c_no_other_step_begins() -> None:
    begun: list[str] = []

    def carry_out(day: FirstDay, undo: Undo) -> StepResult:
        begun.append("second")
        return passed("done")

    records, interrupted = run_steps(day(), [raising(KeyboardInterrupt(), []), step(carry_out)])
    assert interrupted
    assert begun == []
    assert [record.result.summary for record in records] == ["stopped by Ctrl-C", "the drill was stopped before"]


def test_after_a_bug_the_changes_are_undone_and_it_is_raised() -> None:
    undone: list[str] = []
    with pytest.raises(ZeroDivisionError):
        run_steps(day(), [raising(ZeroDivisionError(), undone)])
    assert undone == ["second", "first"]


@pytest.mark.parametrize("error", [client_error("ExpiredToken"), Failed("away"), KeyboardInterrupt()])
def test_what_cannot_be_undone_is_reported_with_the_remedy(error: BaseException) -> None:
    undone: list[str] = []

    def fails() -> bool:
        raise error

    def carry_out(day: FirstDay, undo: Undo) -> StepResult:
        undo.add("the first is as before", "mend the first", doing(undone, "first"))
        undo.add("launches resumed", "synkti resume", fails)
        return passed("done")

    (record,), _ = run_steps(day(), [step(carry_out)])
    assert undone == ["first"], "the other changes are undone all the same"
    assert record.left[0].startswith("synkti resume (")


def test_what_was_not_changed_is_not_listed_as_undone() -> None:
    def carry_out(day: FirstDay, undo: Undo) -> StepResult:
        undo.add("nothing", "nothing", lambda: False)
        return passed("done")

    (record,), _ = run_steps(day(), [step(carry_out)])
    assert (record.undone, record.left) == ((), ())


def test_a_step_that_interrupts_a_node_is_confirmed_first() -> None:
    begun: list[str] = []

    def carry_out(day: FirstDay, undo: Undo) -> StepResult:
        begun.append("it")
        return passed("done")

    confirmed = step(carry_out, question="Take a node?")
    (record,), _ = run_steps(day(yes=False), [confirmed])
    assert (record.result.outcome, begun) == (Outcome.NOT_RUN, [])
    assert (record.result.advice, "Take a node?" in record.result.summary) == ("add --yes", True)
    run_steps(day(yes=True), [confirmed])
    assert begun == ["it"]


def test_on_the_embedded_aws_a_step_has_the_reason_why_it_does_not_run() -> None:
    def carry_out(day: FirstDay, undo: Undo) -> StepResult:
        raise AssertionError("it must not run")

    (record,), _ = run_steps(day(embedded=True), [step(carry_out, not_embedded="it has no such service")])
    assert (record.result.outcome, record.result.summary) == (Outcome.NOT_RUN, "it has no such service")
