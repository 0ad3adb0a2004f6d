"""The story of `make run`: answers that stream while the nodes behind them are taken away.

Act one: EC2 gives notice to the node whose engine serves the stream. Act two: the whole node is killed. In both, the
client is connected to another node, and must get exactly what it would have got otherwise.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
from boto3.dynamodb.types import TypeDeserializer

from local.aws import EmbeddedAws
from local.certificate import Answer, StreamAccount
from local.deploy import Deployed
from local.ec2_loop import Ec2Loop
from local.errors import LocalRunError
from local.listener import Heard, Question, listen
from local.machines import Machine
from local.processes import tail
from local.screen import Screen
from node_agent.contract.records import NodeRecord, node_key, record_from_item
from node_agent.contract.tags import STATE_TAG

NOTICE_LEAD_S = 9.0
"""EC2 gives about 120 s, sometimes less. So little is left here that the stream cannot finish where it is."""

CUT_AFTER_TOKENS = 120
_LOOK_EVERY_S = 0.2
_RECORD_WITHIN_S = 20.0

Reference = Callable[[Question], Answer | None]
"""The right answer where it is known without asking."""


@dataclass
class Stage:
    """Everything the acts need.

    size: of the fleet; ready_within_s: how long nodes may take until they serve; kept: whether the promise was, once
    that is known.
    """

    aws: EmbeddedAws
    deployed: Deployed
    loop: Ec2Loop
    screen: Screen
    model: str
    reference: Reference
    size: int
    ready_within_s: float
    accounts: list[StreamAccount] = field(default_factory=list)
    first_token_s: float | None = None
    kept: bool | None = None
    http: httpx.AsyncClient = field(default_factory=lambda: httpx.AsyncClient(timeout=5))

    async def nodes(self) -> list[dict[str, Any]]:
        """The fleet as the longest running machine sees it; empty while none answers."""
        for machine in self.loop.machines:
            try:
                answer = await self.http.get(f"{machine.url}/v1/synkti/nodes")
            except httpx.HTTPError:
                continue
            found: list[dict[str, Any]] = answer.json()["nodes"]
            return found
        return []

    async def until_ready(self) -> None:
        """Until all nodes serve and know each other; tells every change. Raises LocalRunError."""
        told: dict[str, str] = {}
        give_up_at = time.monotonic() + self.ready_within_s
        while True:
            nodes = await self.nodes()
            living = {machine.instance_id for machine in self.loop.machines}
            states = {node["instance_id"]: node["state"] for node in nodes if node["instance_id"] in living}
            for instance_id, state in states.items():
                if told.get(instance_id) != state:
                    self.screen.say(f"{instance_id} {state}", style="green" if state == "ready" else "")
            told = states
            if sum(state == "ready" for state in states.values()) >= self.size:
                return
            if time.monotonic() > give_up_at:
                logs = "\n".join(f"{m.log}:\n{tail(m.log)}" for m in self.loop.machines)
                raise LocalRunError(f"the nodes were not ready within {self.ready_within_s:.0f} s; their logs:\n{logs}")
            await asyncio.sleep(0.1)


Take = Callable[[Machine], Awaitable[None]]


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
    screen = stage.screen
    reference = await _reference(stage, question)
    engine = (await _routed(stage, question)).node
    entry = next(m for m in stage.loop.machines if m.instance_id != engine)
    screen.say(f"a client reads through {entry.instance_id}, the engine of {engine} generates:")
    victim: list[Machine] = []
    tags: list[tuple[float, dict[str, str]]] = []
    watching: list[asyncio.Task[None]] = []
    taking: list[asyncio.Task[None]] = []

    def heard_more(heard: Heard, piece: str) -> None:
        if stage.first_token_s is None and heard.ids:
            stage.first_token_s = screen.elapsed_s
        screen.stream(piece)
        if len(heard.ids) >= CUT_AFTER_TOKENS and not victim:
            victim.append(stage.loop.machine(heard.node))
            screen.say(f"after {len(heard.ids)} tokens: {kind} for {heard.node}", style="bold red")
            watching.append(asyncio.create_task(_watch_tags(stage, heard.node, tags)))
            taking.append(asyncio.create_task(_coroutine(take, victim[0])))

    heard = await listen(entry.url, stage.model, question, heard_more)
    if not victim:
        raise LocalRunError(f"the stream of {name} ended after {len(heard.ids)} tokens, before anything was taken away")
    await asyncio.gather(*taking)
    moved = heard.continued_from(heard.node)
    by_it = moved is not None and moved.why != "silence"
    account = StreamAccount(
        name,
        reference,
        heard.answer,
        kind if by_it else None,
        moved.pause_ms if moved is not None else None,
        error=heard.error,
    )
    stage.accounts.append(account)
    _tell(screen, account)
    await _tell_records(stage, victim[0].instance_id, kind, tags)
    for task in watching:
        task.cancel()
    return by_it


async def _coroutine(take: Take, machine: Machine) -> None:
    await take(machine)


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
    """A first token of the same question: it shows whose engine the question is routed to."""
    return await listen(stage.loop.machines[0].url, stage.model, question.limited(1), lambda heard, piece: None)


def _tell(screen: Screen, account: StreamAccount) -> None:
    if account.error is not None:
        screen.say(f"the client got an error: {account.error}", style="bold red")
    same = "exactly the uninterrupted answer" if account.verified else "NOT the uninterrupted answer"
    went_on = f"it went on after a pause of {account.pause_ms} ms" if account.pause_ms is not None else "no hand-off"
    screen.say(
        f"{len(account.delivered.ids)} tokens, {same}; {went_on} "
        f"(lost {account.lost}, duplicated {account.duplicated})",
        style="bold green" if account.verified else "bold red",
    )


async def _watch_tags(stage: Stage, instance_id: str, tags: list[tuple[float, dict[str, str]]]) -> None:
    while True:
        seen = await asyncio.to_thread(stage.loop.tags, instance_id)
        if not tags or tags[-1][1] != seen:
            tags.append((time.time(), seen))
        await asyncio.sleep(_LOOK_EVERY_S)


async def _tell_records(stage: Stage, instance_id: str, kind: str, tags: list[tuple[float, dict[str, str]]]) -> None:
    """Wait for what the Lambda writes, and show it. Raises LocalRunError where it does not come."""
    expected = {"terminated@eventbridge"} | ({"interruption-notice@eventbridge"} if kind == "notice" else set())
    give_up_at = time.monotonic() + _RECORD_WITHIN_S
    while True:
        record = await _record(stage, instance_id)
        if record is not None and expected <= set(record.timeline):
            break
        if time.monotonic() > give_up_at:
            has = sorted(record.timeline) if record is not None else "nothing"
            raise LocalRunError(f"the Lambda did not write {sorted(expected)} for {instance_id}; the record has {has}")
        await asyncio.sleep(_LOOK_EVERY_S)
    stage.screen.timeline(record, [(at, seen) for at, seen in tags if STATE_TAG in seen or not seen])


async def _record(stage: Stage, instance_id: str) -> NodeRecord | None:
    table = await asyncio.to_thread(_read_item, stage, instance_id)
    return record_from_item(table) if table is not None else None


def _read_item(stage: Stage, instance_id: str) -> dict[str, Any] | None:
    key = {name: {"S": value} for name, value in node_key(instance_id).items()}
    item = stage.aws.client("dynamodb").get_item(TableName=stage.deployed.table, Key=key).get("Item")
    reader = TypeDeserializer()
    return {name: reader.deserialize(value) for name, value in item.items()} if item is not None else None
