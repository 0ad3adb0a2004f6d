"""The step that sets off an alarm, to see whether its mail arrives."""

from __future__ import annotations

from datetime import UTC, datetime

from cli.adapters.alarms import Alarms
from cli.core.first_day.alarm import action_of, choose, judge_alarm, unconfirmed
from cli.core.first_day.report import StepResult
from cli.first_day.day import POLL_S, FirstDay
from cli.first_day.run import Undo
from node_agent.contract.names import stack_name

ACTION_WITHIN_S, EMBEDDED_WITHIN_S = 60.0, 2.0
_ALARM = "ALARM"


def alarm_step(day: FirstDay, undo: Undo) -> StepResult:
    """Set one alarm of the cluster to ALARM, wait for CloudWatch's action, and set it back."""
    client = day.fleet.account.client
    alarms = Alarms(client("cloudwatch"), client("sns"), client("cloudformation"))
    stack = stack_name(day.fleet.cluster, "events")
    is_deployed = any(each.name == stack for each in day.fleet.stacks)
    chosen = choose(alarms.of_stack(stack) if is_deployed else ())
    if isinstance(chosen, StepResult):
        return chosen
    if chosen.topic is not None and (problem := unconfirmed(alarms.subscriptions(chosen.topic))) is not None:
        return problem
    name, state = chosen.name, chosen.state

    def set_back() -> bool:
        if alarms.state(name) != _ALARM:
            return False  # CloudWatch has evaluated the metric since
        alarms.set_state(name, state)
        return True

    undo.add(f"the alarm {name} is {state} again", f"CloudWatch sets the alarm {name} itself within minutes", set_back)
    since = datetime.fromtimestamp(day.wall(), UTC)
    alarms.set_state(name, _ALARM)
    embedded = day.fleet.account.is_embedded
    within_s = EMBEDDED_WITHIN_S if embedded else ACTION_WITHIN_S
    give_up_at = day.clock.now() + within_s
    while (sentence := action_of(alarms.actions(name, since))) is None and day.clock.now() < give_up_at:
        day.clock.sleep(POLL_S)
    question = "Has a mail arrived whose subject begins with ALARM (it takes up to a minute)?"
    arrived = None if sentence is None or day.options.yes else day.terminal.answer(question)
    return judge_alarm(sentence, within_s, arrived, embedded=embedded)
