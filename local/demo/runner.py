"""Runs the acts, compares what clients received with the uninterrupted answers, and prints what happened."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from local.certificate import Output, StreamOutcome
from local.demo.acts import MAX_ATTEMPTS, Attempt
from local.demo.client import read_stream
from local.demo.context import DemoContext
from local.demo.request import DemoRequest
from local.demo.screen import Screen
from local.errors import LocalRunError

Act = Callable[[DemoContext], Awaitable[Attempt]]


async def run_act(context: DemoContext, act: Act) -> int:
    """Run an act until its interruption itself moves its streams.

    On a busy machine an engine may be silent for so long that its stream moves before the fault. Such a stream is
    verified, too, but it does not show the interruption, so another attempt follows.

    Args:
        context: of the run, to which the streams' outcomes are added.
        act: reads streams through an interruption.

    Returns:
        The number of attempts, from 1.

    Raises:
        LocalRunError: no attempt moved a stream, a stream ended before the fault, or the Lambdas' record of the fault
            stayed incomplete.
    """
    for number in range(1, MAX_ATTEMPTS + 1):
        async with context.screen.waiting(lambda: "the streams are read"):
            attempt = await act(context)
        try:
            await _conclude(context, attempt, f" {number}" if number > 1 else "")
        finally:
            await attempt.interruption.stop()
        if attempt.is_shown:
            return number
        context.screen.log("a stream moved before the fault: this machine is busy. Another attempt follows")
    raise LocalRunError(f"no stream moved in {MAX_ATTEMPTS} attempts: this machine is too busy for the engine")


async def _conclude(context: DemoContext, attempt: Attempt, suffix: str) -> None:
    if attempt.interruption.target is None:
        why = next((each.error for each in attempt.streams.values() if each.error), None) or "it was too short"
        raise LocalRunError(f"a stream ended before the fault: {why}")
    reference = await _reference(context, attempt.request)
    for name, result in attempt.streams.items():
        seam = result.continuations[0] if result.continuations else None
        is_caused = seam is not None and seam.reason != "silence"
        outcome = StreamOutcome(
            name + suffix, reference, result.output, attempt.interruption.kind if is_caused else None,
            seam.pause_ms if seam is not None else None, result.error,
        )  # fmt: skip
        context.outcomes.append(outcome)
        _log_outcome(context.screen, outcome)
    if attempt.plain is not None:
        context.plain = (len(attempt.plain.token_ids), len(reference.token_ids), attempt.plain.error)
        _log_plain(context.screen, *context.plain)
    async with context.screen.waiting(lambda: "the Lambdas write their records"):
        await attempt.interruption.verify()


async def _reference(context: DemoContext, request: DemoRequest) -> Output:
    """Return the uninterrupted output: known in advance, or requested here once. Raises LocalRunError."""
    found = context.references.get(request) or context.reference(request)
    if found is None:
        tokens = 0

        def on_chunk(result: object, text: str) -> None:
            nonlocal tokens
            tokens += 1

        async with context.screen.waiting(lambda: f"the same request, uninterrupted, to compare with: {tokens} tokens"):
            result = await read_stream(context.emulator.instances[0].url, context.model, request, on_chunk)
        if result.error is not None:
            raise LocalRunError(f"the uninterrupted answer failed: {result.error}")
        found = result.output
    context.references[request] = found
    return found


def _log_outcome(screen: Screen, outcome: StreamOutcome) -> None:
    if outcome.error is not None:
        screen.log(f"the client got an error: {outcome.error}", style="bold red")
    comparison = (
        "exactly the uninterrupted answer"
        if outcome.verified
        else f"NOT the uninterrupted answer: {outcome.lost_tokens} lost, {outcome.duplicated_tokens} duplicated"
    )
    pause = f"after a pause of {outcome.pause_ms:.0f} ms" if outcome.pause_ms is not None else "without a hand-off"
    screen.log(
        f"{outcome.name}: {len(outcome.delivered.token_ids)} tokens, {comparison}, {pause}",
        style="bold green" if outcome.verified else "bold red",
    )


def _log_plain(screen: Screen, received: int, expected: int, error: str | None) -> None:
    if error is None:
        screen.log(f"plain vLLM: {received} of {expected} tokens, without an error", style="bold red")
        return
    screen.log(f"plain vLLM: {received} of {expected} tokens, then the client's connection broke", style="bold red")
