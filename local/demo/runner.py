"""The story of `make run`: answers that stream while the nodes behind them are taken away.

Act one: EC2 gives notice to the node whose engine serves the stream. Act two: the whole node is killed. In both, the
client is connected to another node, and must get exactly what it would have got otherwise.
"""

from __future__ import annotations

from local.certificate import Answer, StreamOutcome
from local.demo.context import Stage
from local.demo.interruption import Interruption, Take
from local.demo.screen import Screen
from local.errors import LocalRunError
from local.listener import Heard, Question, listen

NOTICE_LEAD_S = 9.0
"""EC2 gives about 120 s, sometimes less. So little is left here that the stream cannot finish where it is."""

CUT_AFTER_TOKENS = 120
TRIES = 3


async def act(stage: Stage, name: str, question: Question, kind: str, take: Take) -> int:
    """Interrupt a stream in this way; how often it took until the interruption itself moved it.

    On a machine that is too busy an engine may be silent for so long that its stream moves before anything is taken
    away. Such a stream counts, too, but it does not show what it should: then once more.
    """
    for attempt in range(1, TRIES + 1):
        if await _interrupt_once(stage, f"{name} {attempt}" if attempt > 1 else name, question, kind, take):
            return attempt
        stage.screen.say("the stream had moved before: this machine is busy. Once more, when all nodes are ready")
        await stage.until_ready()
    raise LocalRunError(f"in {TRIES} tries no stream was moved by {kind}: this machine is too busy for the engine")


async def _interrupt_once(stage: Stage, name: str, question: Question, kind: str, take: Take) -> bool:
    """One stream, one interruption; whether it was the interruption that moved the stream."""
    reference = await _reference(stage, question)
    interruption = Interruption(stage, kind, take)
    try:
        heard = await _read_through(stage, question, kind, interruption)
        if interruption.victim is None:
            why = heard.error or "it was too short"
            raise LocalRunError(
                f"{name}: the stream ended after {len(heard.ids)} tokens, before anything was taken away: {why}"
            )
        moved = heard.continued_from(heard.node)
        by_it = moved is not None and moved.why != "silence"
        pause_ms = moved.pause_ms if moved is not None else None
        account = StreamOutcome(name, reference, heard.answer, kind if by_it else None, pause_ms, heard.error)
        stage.accounts.append(account)
        _tell(stage.screen, account)
        await interruption.settle()
    finally:
        await interruption.end()
    return by_it


async def _read_through(stage: Stage, question: Question, kind: str, interruption: Interruption) -> Heard:
    """Read the answer through a node whose engine does not generate it; the interruption strikes the one that does."""
    screen = stage.screen
    engine = (await _routed(stage, question)).node
    entry = next(m for m in stage.loop.machines if m.instance_id != engine)
    screen.say(f"a client reads through {entry.instance_id}, the engine of {engine} generates:")

    def heard_more(heard: Heard, piece: str) -> None:
        if stage.first_token_s is None and heard.ids:
            stage.first_token_s = screen.elapsed_s
        screen.stream(piece)
        if len(heard.ids) >= CUT_AFTER_TOKENS and interruption.victim is None:
            screen.say(f"after {len(heard.ids)} tokens: {kind} for {heard.node}", style="bold red")
            interruption.strike(stage.loop.machine(heard.node))

    return await listen(entry.url, stage.model, question, heard_more)


async def _reference(stage: Stage, question: Question) -> Answer:
    """What the client would get without any interruption: known in advance, or asked for beforehand."""
    known = stage.reference(question)
    if known is not None:
        return known
    stage.screen.say("first the same answer uninterrupted, as the reference")
    heard = await listen(stage.loop.machines[0].url, stage.model, question, lambda heard, piece: None)
    if heard.error is not None:
        raise LocalRunError(f"the uninterrupted answer failed: {heard.error}")
    return heard.answer


async def _routed(stage: Stage, question: Question) -> Heard:
    """A first token of the same question: it shows whose engine the question is routed to. Raises LocalRunError."""
    heard = await listen(stage.loop.machines[0].url, stage.model, question.limited(1), lambda heard, piece: None)
    if heard.error is not None:
        raise LocalRunError(f"the nodes are ready, but do not answer: {heard.error}")
    return heard


def _tell(screen: Screen, account: StreamOutcome) -> None:
    if account.error is not None:
        screen.say(f"the client got an error: {account.error}", style="bold red")
    same = "exactly the uninterrupted answer" if account.verified else "NOT the uninterrupted answer"
    went_on = f"it went on after a pause of {account.pause_ms} ms" if account.pause_ms is not None else "no hand-off"
    screen.say(
        f"{len(account.delivered.ids)} tokens, {same}; {went_on} "
        f"(lost {account.lost}, duplicated {account.duplicated})",
        style="bold green" if account.verified else "bold red",
    )
