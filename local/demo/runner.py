"""Runs the interruptions of `make run`: streams whose nodes are interrupted while a client reads.

First EC2 gives notice to the node whose engine serves the stream. Then a whole node is killed. In both cases the client
is connected to another node, and must receive exactly the uninterrupted output.
"""

from __future__ import annotations

from local.certificate import Output, StreamOutcome
from local.demo.client import DemoRequest, StreamResult, read_stream
from local.demo.context import DemoContext
from local.demo.interruption import FaultAction, Interruption
from local.demo.screen import Screen
from local.errors import LocalRunError

NOTICE_LEAD_S = 9.0
"""EC2 gives about 120 s, sometimes less. This is so short that the stream cannot finish where it is."""

INTERRUPT_AFTER_TOKENS = 120
MAX_ATTEMPTS = 3


async def interrupt_stream(
    context: DemoContext, name: str, request: DemoRequest, kind: str, action: FaultAction
) -> int:
    """Interrupt streams until an interruption itself moves one.

    On a busy machine an engine may be silent for so long that its stream moves before the fault. Such a stream is
    verified, too, but it does not show the interruption, so another attempt follows.

    Args:
        context: of the run, to which the streams' outcomes are added.
        name: of the stream, in the certificate.
        request: the stream to read.
        kind: of the interruption: notice or sigkill.
        action: interrupts the node whose engine serves the stream.

    Returns:
        The number of attempts, from 1.

    Raises:
        LocalRunError: no attempt moved a stream, a stream ended before the fault, or the Lambdas' record of the fault
            stayed incomplete.
    """
    for attempt in range(1, MAX_ATTEMPTS + 1):
        if await _interrupt_once(context, f"{name} {attempt}" if attempt > 1 else name, request, kind, action):
            return attempt
        context.screen.log(
            "the stream moved before the fault: this machine is busy. Another attempt follows when all nodes are ready"
        )
        await context.wait_until_ready()
    raise LocalRunError(f"{kind} moved no stream in {MAX_ATTEMPTS} attempts: this machine is too busy for the engine")


async def _interrupt_once(
    context: DemoContext, name: str, request: DemoRequest, kind: str, action: FaultAction
) -> bool:
    """Interrupt one stream; return whether it was the interruption that moved the stream."""
    reference = await _reference(context, request)
    interruption = Interruption(context, kind, action)
    try:
        result = await _read_through(context, request, kind, interruption)
        if interruption.target is None:
            why = result.error or "it was too short"
            raise LocalRunError(
                f"{name}: the stream ended after {len(result.token_ids)} tokens, before the fault: {why}"
            )
        continuation = result.continued_from(result.node)
        caused_by_fault = continuation is not None and continuation.reason != "silence"
        pause_ms = continuation.pause_ms if continuation is not None else None
        outcome = StreamOutcome(
            name, reference, result.output, kind if caused_by_fault else None, pause_ms, result.error
        )
        context.outcomes.append(outcome)
        _log_outcome(context.screen, outcome)
        await interruption.verify()
    finally:
        await interruption.stop()
    return caused_by_fault


async def _read_through(
    context: DemoContext, request: DemoRequest, kind: str, interruption: Interruption
) -> StreamResult:
    """Read the stream through a node whose engine does not generate it; interrupt the node whose engine does."""
    screen = context.screen
    engine = (await _probe_route(context, request)).node
    entry = next(m for m in context.emulator.instances if m.instance_id != engine)
    screen.log(f"a client reads through {entry.instance_id}, the engine of {engine} generates:")

    def on_chunk(result: StreamResult, text: str) -> None:
        if context.first_token_s is None and result.token_ids:
            context.first_token_s = screen.elapsed_s
        screen.write_stream(text)
        if len(result.token_ids) >= INTERRUPT_AFTER_TOKENS and interruption.target is None:
            screen.log(f"after {len(result.token_ids)} tokens: {kind} for {result.node}", style="bold red")
            interruption.start(context.emulator.instance(result.node))

    return await read_stream(entry.url, context.model, request, on_chunk)


async def _reference(context: DemoContext, request: DemoRequest) -> Output:
    """Return the uninterrupted output: known in advance, or requested here. Raises LocalRunError."""
    known = context.reference(request)
    if known is not None:
        return known
    context.screen.log("first the same stream uninterrupted, as the reference")
    result = await read_stream(context.emulator.instances[0].url, context.model, request, lambda result, text: None)
    if result.error is not None:
        raise LocalRunError(f"the uninterrupted answer failed: {result.error}")
    return result.output


async def _probe_route(context: DemoContext, request: DemoRequest) -> StreamResult:
    """Request one token, to see which engine the request is routed to. Raises LocalRunError."""
    result = await read_stream(
        context.emulator.instances[0].url, context.model, request.limited(1), lambda result, text: None
    )
    if result.error is not None:
        raise LocalRunError(f"the nodes are ready, but do not answer: {result.error}")
    return result


def _log_outcome(screen: Screen, outcome: StreamOutcome) -> None:
    if outcome.error is not None:
        screen.log(f"the client got an error: {outcome.error}", style="bold red")
    comparison = "exactly the uninterrupted answer" if outcome.verified else "NOT the uninterrupted answer"
    continued = f"continued after a pause of {outcome.pause_ms} ms" if outcome.pause_ms is not None else "no hand-off"
    screen.log(
        f"{len(outcome.delivered.token_ids)} tokens, {comparison}; {continued} "
        f"(lost {outcome.lost_tokens}, duplicated {outcome.duplicated_tokens})",
        style="bold green" if outcome.verified else "bold red",
    )
