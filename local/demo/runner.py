"""The story of `make run`: answers that stream while the nodes behind them are taken away.

Act one: EC2 gives notice to the node whose engine serves the stream. Act two: the whole node is killed. In both, the
client is connected to another node, and must get exactly what it would have got otherwise.
"""

from __future__ import annotations

from local.certificate import Output, StreamOutcome
from local.demo.context import DemoContext
from local.demo.interruption import FaultAction, Interruption
from local.demo.screen import Screen
from local.errors import LocalRunError
from local.listener import DemoRequest, StreamResult, read_stream

NOTICE_LEAD_S = 9.0
"""EC2 gives about 120 s, sometimes less. So little is left here that the stream cannot finish where it is."""

INTERRUPT_AFTER_TOKENS = 120
MAX_ATTEMPTS = 3


async def interrupt_stream(stage: DemoContext, name: str, question: DemoRequest, kind: str, take: FaultAction) -> int:
    """Interrupt a stream in this way; how often it took until the interruption itself moved it.

    On a machine that is too busy an engine may be silent for so long that its stream moves before anything is taken
    away. Such a stream counts, too, but it does not show what it should: then once more.
    """
    for attempt in range(1, MAX_ATTEMPTS + 1):
        if await _interrupt_once(stage, f"{name} {attempt}" if attempt > 1 else name, question, kind, take):
            return attempt
        stage.screen.log("the stream had moved before: this machine is busy. Once more, when all nodes are ready")
        await stage.wait_until_ready()
    raise LocalRunError(
        f"in {MAX_ATTEMPTS} tries no stream was moved by {kind}: this machine is too busy for the engine"
    )


async def _interrupt_once(stage: DemoContext, name: str, question: DemoRequest, kind: str, take: FaultAction) -> bool:
    """One stream, one interruption; whether it was the interruption that moved the stream."""
    reference = await _reference(stage, question)
    interruption = Interruption(stage, kind, take)
    try:
        heard = await _read_through(stage, question, kind, interruption)
        if interruption.target is None:
            why = heard.error or "it was too short"
            raise LocalRunError(
                f"{name}: the stream ended after {len(heard.ids)} tokens, before anything was taken away: {why}"
            )
        moved = heard.continued_from(heard.node)
        by_it = moved is not None and moved.why != "silence"
        pause_ms = moved.pause_ms if moved is not None else None
        account = StreamOutcome(name, reference, heard.answer, kind if by_it else None, pause_ms, heard.error)
        stage.outcomes.append(account)
        _log_outcome(stage.screen, account)
        await interruption.verify()
    finally:
        await interruption.stop()
    return by_it


async def _read_through(
    stage: DemoContext, question: DemoRequest, kind: str, interruption: Interruption
) -> StreamResult:
    """Read the answer through a node whose engine does not generate it; the interruption strikes the one that does."""
    screen = stage.screen
    engine = (await _probe_route(stage, question)).node
    entry = next(m for m in stage.emulator.instances if m.instance_id != engine)
    screen.log(f"a client reads through {entry.instance_id}, the engine of {engine} generates:")

    def heard_more(heard: StreamResult, piece: str) -> None:
        if stage.first_token_s is None and heard.ids:
            stage.first_token_s = screen.elapsed_s
        screen.write_stream(piece)
        if len(heard.ids) >= INTERRUPT_AFTER_TOKENS and interruption.target is None:
            screen.log(f"after {len(heard.ids)} tokens: {kind} for {heard.node}", style="bold red")
            interruption.start(stage.emulator.instance(heard.node))

    return await read_stream(entry.url, stage.model, question, heard_more)


async def _reference(stage: DemoContext, question: DemoRequest) -> Output:
    """What the client would get without any interruption: known in advance, or asked for beforehand."""
    known = stage.reference(question)
    if known is not None:
        return known
    stage.screen.log("first the same answer uninterrupted, as the reference")
    heard = await read_stream(stage.emulator.instances[0].url, stage.model, question, lambda heard, piece: None)
    if heard.error is not None:
        raise LocalRunError(f"the uninterrupted answer failed: {heard.error}")
    return heard.answer


async def _probe_route(stage: DemoContext, question: DemoRequest) -> StreamResult:
    """A first token of the same question: it shows whose engine the question is routed to. Raises LocalRunError."""
    heard = await read_stream(
        stage.emulator.instances[0].url, stage.model, question.limited(1), lambda heard, piece: None
    )
    if heard.error is not None:
        raise LocalRunError(f"the nodes are ready, but do not answer: {heard.error}")
    return heard


def _log_outcome(screen: Screen, account: StreamOutcome) -> None:
    if account.error is not None:
        screen.log(f"the client got an error: {account.error}", style="bold red")
    same = "exactly the uninterrupted answer" if account.verified else "NOT the uninterrupted answer"
    went_on = f"it went on after a pause of {account.pause_ms} ms" if account.pause_ms is not None else "no hand-off"
    screen.log(
        f"{len(account.delivered.token_ids)} tokens, {same}; {went_on} "
        f"(lost {account.lost_tokens}, duplicated {account.duplicated_tokens})",
        style="bold green" if account.verified else "bold red",
    )
