"""The three acts of `make run`: what a client sees of a notice, of a killed engine, and of its own node killed.

Each act reads streams, interrupts one node in their middle, and compares what arrived with the uninterrupted answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

import synkti_client
from local.continuation_timer import Continuation
from local.demo.client import OnChunk, StreamResult, read_stream, read_with_curl
from local.demo.context import DemoContext
from local.demo.gateway import GatewayProcess
from local.demo.interruption import Interruption
from local.demo.panes import Pane
from local.demo.request import DemoRequest
from local.demo.round_robin import RoundRobin
from local.demo.screen import Panes
from local.emulated_instance import EmulatedInstance
from local.errors import LocalRunError
from node_agent.contract.names import ENGINE_PORT
from node_agent.core.failure.loss import LossReason

NOTICE_LEAD_S = 9.0
"""EC2 gives about 120 s, sometimes less. This is so short that the stream cannot finish where it is."""

INTERRUPT_AFTER_TOKENS = 120
MAX_ATTEMPTS = 3
MAX_TOKENS = 3000
TRAIN, LIGHTHOUSE = (
    DemoRequest(True, f"Tell me a story about a {subject}.", MAX_TOKENS) for subject in ("night train", "lighthouse")
)
_SHORT_CHARS = 10


@dataclass
class Attempt:
    """One interruption and the streams of a request that were read through it. plain: without Synkti."""

    request: DemoRequest
    interruption: Interruption
    streams: dict[str, StreamResult]
    plain: StreamResult | None = None

    @property
    def is_shown(self) -> bool:
        """True if each stream lost a node by the interruption, not by a silence of a busy machine before."""
        continued = [each for stream in self.streams.values() for each in stream.continuations[:1]]
        return len(continued) == len(self.streams) and all(each.reason != "silence" for each in continued)


class StreamView:
    """Shows a stream in a pane as it arrives, and marks its seams."""

    def __init__(self, panes: Panes, pane: Pane, then: OnChunk) -> None:
        self._panes = panes
        self._pane = pane
        self._then = then
        self._seams = 0

    def on_chunk(self, result: StreamResult, text: str) -> None:
        """Show more text."""
        for seam in result.continuations[self._seams :]:
            self._pane.seam(seam_note(seam))
        self._seams = len(result.continuations)
        self._pane.write(text)
        self._panes.flush()
        self._then(result, text)

    async def show(self, reading: Awaitable[StreamResult]) -> StreamResult:
        """Await the result, and show how it ended."""
        result = await reading
        self.end(result)
        return result

    def end(self, result: StreamResult) -> None:
        """Show how it ended."""
        if result.error is not None:
            self._pane.cut(f"CUT after {len(result.token_ids)} tokens: {result.error}")
        self._pane.close()
        self._panes.flush()


def seam_note(seam: Continuation) -> str:
    """Return what happened at a seam: from which node to which, in which way, and the client's pause."""
    way = {LossReason.HANDOFF.value: "notice", LossReason.ENTRY_LOST.value: "resumed"}.get(seam.reason, "lost")
    return f"{short(seam.lost_node)} → {short(seam.node)}: {way}, pause {seam.pause_ms:.0f} ms"


def short(instance_id: str) -> str:
    """Return the beginning of an instance id, which is enough to tell three nodes apart."""
    return instance_id[:_SHORT_CHARS] or "a node"


class Trigger:
    """Interrupts once all streams that it counts have INTERRUPT_AFTER_TOKENS tokens."""

    def __init__(self, context: DemoContext, streams: int, fire: Callable[[], None]) -> None:
        self._context = context
        self._tokens = dict.fromkeys(range(streams), 0)
        self._fire = fire
        self._is_fired = False

    def counter(self, number: int) -> OnChunk:
        """Return what to call for each chunk of a stream."""

        def count(result: StreamResult, text: str) -> None:
            context = self._context
            if not context.has_first_token and result.token_ids:
                context.has_first_token = True
                context.screen.log("the first token")
            self._tokens[number] = len(result.token_ids)
            if not self._is_fired and min(self._tokens.values()) >= INTERRUPT_AFTER_TOKENS:
                self._is_fired = True
                self._fire()

        return count


async def through_a_notice(context: DemoContext) -> Attempt:
    """Read a stream with the stock SDK; EC2 gives notice to the node whose engine generates it."""

    async def notice(instance: EmulatedInstance) -> None:
        await context.emulator.interrupt(instance, NOTICE_LEAD_S)

    interruption = Interruption(context, "notice", notice)
    panes = context.screen.panes("OpenAI SDK, connected to another node")
    result = await _read_apart(context, TRAIN, interruption, panes, lambda victim: None, streams=1)
    panes.close()
    return Attempt(TRAIN, interruption, {"chat through a notice": result})


async def through_a_kill(context: DemoContext) -> Attempt:
    """Read a stream with the stock SDK, and the same from plain vLLM; the engine's node is killed."""
    interruption = Interruption(context, "sigkill", partial(_kill, context))
    panes = context.screen.panes("Synkti", "plain vLLM, round robin: same request, same node")
    plain: list[asyncio.Task[StreamResult]] = []

    def read_plain(victim: EmulatedInstance, count: OnChunk) -> None:
        plain.append(
            asyncio.create_task(_read_plain(context, LIGHTHOUSE, victim, StreamView(panes, panes.panes[1], count)))
        )

    try:
        result = await _read_apart(context, LIGHTHOUSE, interruption, panes, read_plain, streams=2)
        cut = await plain[0] if plain else None
    finally:
        for task in plain:
            task.cancel()
    panes.close()
    return Attempt(LIGHTHOUSE, interruption, {"chat through a SIGKILL": result}, cut)


def start_gateway(context: DemoContext) -> None:
    """Start `synkti gateway` at a ready node, if it is not running for one that still lives."""
    if context.gateway is None or context.gateway.entry not in context.emulator.instances:
        context.stop_gateway()
        context.gateway = GatewayProcess(context.emulator.instances[0], context.folder, context.logs)


async def through_the_loss_of_its_own_node(context: DemoContext) -> Attempt:
    """Read with the client package, and with curl through a gateway; the node that both are connected to is killed."""
    start_gateway(context)
    gateway, screen = context.gateway, context.screen
    if gateway is None:
        raise AssertionError("started above")
    entry = gateway.entry
    interruption = Interruption(context, "entry-sigkill", partial(_kill, context))
    async with screen.waiting(lambda: "synkti gateway starts"):
        await gateway.wait()
    screen.log(f"synkti gateway listens on {gateway.url}; both clients are connected to {entry.instance_id}")
    panes = screen.panes("OpenAI SDK with synkti_client", f"curl {gateway.url}/v1/chat/completions")

    def fire() -> None:
        screen.log(f"SIGKILL: {entry.instance_id}, the node that both clients are connected to", style="bold red")
        interruption.start(entry)

    trigger = Trigger(context, 2, fire)
    views = [StreamView(panes, pane, trigger.counter(number)) for number, pane in enumerate(panes.panes)]
    transport = synkti_client.async_transport([entry.url])
    sdk, curl = await asyncio.gather(
        views[0].show(
            read_stream("http://synkti", context.model, LIGHTHOUSE, views[0].on_chunk, transport=transport),
        ),
        views[1].show(read_with_curl(gateway.url, context.model, LIGHTHOUSE, views[1].on_chunk)),
    )
    panes.close()
    screen.log(f"the gateway printed: {gateway.last_line}")
    return Attempt(LIGHTHOUSE, interruption, {"SDK whose node was killed": sdk, "curl whose node was killed": curl})


async def _read_apart(
    context: DemoContext,
    request: DemoRequest,
    interruption: Interruption,
    panes: Panes,
    beside: Callable[..., None],
    *,
    streams: int,
) -> StreamResult:
    """Read a stream through a node whose engine does not generate it, and interrupt the node whose engine does.

    Args:
        context: of the run.
        request: what is sent.
        interruption: to start when the streams have begun.
        panes: where the streams are shown.
        beside: called with the engine's node, and a counter of chunks where there are two streams.
        streams: how many are read.

    Returns:
        What was received.

    Raises:
        LocalRunError: every node generates what it is connected for by itself.
    """
    screen = context.screen
    victims: list[EmulatedInstance] = []

    def fire() -> None:
        what = "notice from EC2" if interruption.kind == "notice" else "SIGKILL"
        screen.log(f"{what}: {victims[0].instance_id}, whose engine generates", style="bold red")
        interruption.start(victims[0])

    trigger = Trigger(context, streams, fire)
    view = StreamView(panes, panes.panes[0], trigger.counter(0))

    def accepts(entry: EmulatedInstance, result: StreamResult) -> bool:
        if result.node == entry.instance_id or victims:
            return bool(victims)
        victims.append(context.emulator.instance(result.node))
        screen.log(f"connected to {entry.instance_id}; the engine of {result.node} generates")
        if streams > 1:
            beside(victims[0], trigger.counter(1))
        return True

    for entry in list(context.emulator.instances):
        result = await read_stream(entry.url, context.model, request, view.on_chunk, accepts=partial(accepts, entry))
        if victims or result.error is not None:
            view.end(result)
            return result
    raise LocalRunError("every node generates with its own engine: no stream could be read through another node")


async def _read_plain(
    context: DemoContext, request: DemoRequest, victim: EmulatedInstance, view: StreamView
) -> StreamResult:
    """Read the same stream from the same engine, as behind a load balancer without Synkti."""
    others = [each for each in context.emulator.instances if each is not victim]
    engines = [(each.metadata.address, ENGINE_PORT) for each in (victim, *others)]
    async with RoundRobin(engines) as balancer:
        return await view.show(read_stream(balancer.url, context.model, request, view.on_chunk))


async def _kill(context: DemoContext, instance: EmulatedInstance) -> None:
    await asyncio.to_thread(instance.kill)
