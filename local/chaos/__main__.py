"""`make chaos`: takes nodes away until somebody loses a token, or the number asked for is reached.

The order of strikes and questions follows from the seed; what meets what also depends on this machine's speed.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from rich.console import Console

import synkti_client
from local import certificate as certificates
from local.aws import EmbeddedAws, free_port
from local.certificate import Answer, StreamAccount
from local.chaos import network
from local.chaos.fleet import ChaosFleet
from local.chaos.listening import Heard, ask
from local.chaos.questions import Question, draw, known_answer
from local.chaos.strikes import KINDS, TERM_GRACE_S, Kind, Losses, deck, victims
from local.deploy import ROOT
from local.engines import MODEL, SIM, VLLM, LocalEngine, prepared
from local.errors import LocalRunError, MendFirst
from local.machines import MachineKind, free_network
from local.processes import Undertaker, start, tail
from local.screen import Screen
from synkti_client import httpx

_CLUSTER = "chaos"
_EVERY_S = (0.1, 0.9)
_TELL_EVERY = 25
_REFRESH_S = 2.0
_GATEWAY_WITHIN_S = 15.0


@dataclass(frozen=True)
class Scale:
    """What differs between the engines: how many nodes and clients, how long the answers."""

    nodes: int
    least_calm: int
    clients: int
    tokens: tuple[int, int]
    texts: int
    choices: int


_SCALES = {SIM: Scale(9, 4, 12, (60, 400), 8, 3), VLLM: Scale(3, 1, 2, (600, 600), 3, 1)}


@dataclass
class Chaos:
    """One run's state. done: strikes so far, by kind; answers: known ones, by the question's key."""

    fleet: ChaosFleet
    engine: LocalEngine
    scale: Scale
    screen: Screen
    gateway_url: str
    transport: synkti_client.AsyncContinuousTransport
    done: Counter[str] = field(default_factory=Counter)
    answers: dict[tuple[object, ...], Answer] = field(default_factory=dict)
    heard: list[Heard] = field(default_factory=list)
    struck_by: dict[str, str] = field(default_factory=dict)

    async def ask(self, question: Question) -> Heard:
        if question.through == "gateway":
            async with httpx.AsyncHTTPTransport() as stock:
                return await ask(question, MODEL, f"{self.gateway_url}/v1", stock)
        return await ask(question, MODEL, "http://synkti/v1", self.transport)

    def account(self, number: int, heard: Heard) -> list[StreamAccount]:
        """One for each choice. Where no ids were asked for, the characters are counted in their place."""
        question, right = heard.question, self.answers[heard.question.key]
        if not question.ids:
            right = Answer(tuple(map(ord, right.text)), right.text)
        kinds = [self.struck_by.get(pause.lost, pause.why) for pause in heard.pauses]
        accounts = []
        for index, answer in enumerate(heard.answers or [Answer((), "")] * question.choices):
            got = answer if question.ids else Answer(tuple(map(ord, answer.text)), answer.text)
            accounts.append(
                StreamAccount(
                    name=f"{number}.{index}",
                    reference=right,
                    delivered=got,
                    kind=kinds[-1] if kinds else None,
                    pause_ms=max(pause.ms for pause in heard.pauses) if heard.pauses and not index else None,
                    error=(heard.error or heard.odd) if not index else None,
                )
            )
        return accounts


def main() -> int:
    options = _options()
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    may_cut = network.enter_namespace()
    console = Console()
    screen = Screen(console if console.is_terminal else Console(width=120))
    try:
        return 0 if asyncio.run(_interruptible(options, screen, may_cut)) else 1
    except LocalRunError as error:
        screen.say(str(error), style="bold red")
        return 2 if isinstance(error, MendFirst) else 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        screen.say("stopped")
        return 130


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make chaos", description="Nodes taken away at random, under load.")
    parser.add_argument("--engine", choices=(VLLM, SIM), default=SIM)
    parser.add_argument("--interruptions", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", help="only these, with commas between them", default=",".join(k.name for k in KINDS))
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "chaos", help="where logs and the certificate go")
    given = parser.parse_args()
    unknown = set(given.kinds.split(",")) - {kind.name for kind in KINDS}
    if unknown:
        parser.error(f"unknown kinds {sorted(unknown)}; there are {[kind.name for kind in KINDS]}")
    given.out = given.out.resolve()
    return given


async def _interruptible(options: argparse.Namespace, screen: Screen, may_cut: bool) -> bool:
    task = asyncio.current_task()
    if task is None:
        raise AssertionError("asyncio.run gives a task")
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    folder = options.out / "run" / secrets.token_hex(4)
    undertaker = Undertaker(folder)
    try:
        return await _run(options, screen, folder, undertaker.scratch, may_cut)
    finally:
        undertaker.finish()


async def _run(options: argparse.Namespace, screen: Screen, folder: Path, scratch: Path, may_cut: bool) -> bool:
    logs = options.out / "logs"
    shutil.rmtree(logs, ignore_errors=True)
    kinds = [kind for kind in KINDS if kind.name in options.kinds.split(",")]
    if not may_cut:
        kinds = [kind for kind in kinds if kind.name != "network-cut"]
        screen.say("this user may not make network namespaces: no network is cut in this run", style="yellow")
    began = time.monotonic()
    engine, scale = await asyncio.to_thread(prepared, options.engine, screen.say), _SCALES[options.engine]
    screen.headline(f"Chaos: {options.interruptions} interruptions, seed {options.seed}, {engine.title}")
    aws = EmbeddedAws(folder, logs)
    await asyncio.to_thread(aws.wait)
    environ = {**aws.environ(), **engine.environ, "TMPDIR": str(scratch)}
    environ |= {"SYNKTI_TABLE": "", "SYNKTI_TERM_GRACE_S": str(TERM_GRACE_S), "SYNKTI_ENGINE_RESTARTS": "50"}
    kind = MachineKind(_CLUSTER, MODEL, engine.model_dir, engine.command, environ, folder / "nodes", logs)
    fleet = ChaosFleet(aws, kind, free_network(), scale.nodes)
    tending = asyncio.create_task(fleet.run())
    telling = asyncio.create_task(_tell(options, fleet, engine, scale, screen, folder, kinds, began))
    try:
        await asyncio.wait({tending, telling}, return_when=asyncio.FIRST_COMPLETED)
        if telling.done():
            return telling.result()
        await tending
        raise LocalRunError("the fleet's loop ended by itself")
    finally:
        for task in (tending, telling):
            task.cancel()
        await asyncio.gather(tending, telling, return_exceptions=True)


async def _tell(
    options: argparse.Namespace,
    fleet: ChaosFleet,
    engine: LocalEngine,
    scale: Scale,
    screen: Screen,
    folder: Path,
    kinds: list[Kind],
    began: float,
) -> bool:
    random = Random(options.seed)  # noqa: S311 # it is to be repeatable
    await fleet.until("all nodes serve", lambda: len(fleet.calm) == scale.nodes, engine.ready_within_s)
    screen.say(f"{scale.nodes} nodes serve")
    urls = [machine.url for machine in fleet.machines]
    gateway, gateway_url = await _gateway(urls, fleet.environ, folder, options.out / "logs" / "gateway.log")
    transport = synkti_client.async_transport(urls)
    chaos = Chaos(fleet, engine, scale, screen, gateway_url, transport)
    over = asyncio.Event()
    questions = [Random(random.random()) for _ in range(scale.clients)]  # noqa: S311 # it is to be repeatable
    if options.engine == VLLM:
        await _learn_answers(chaos)
    clients = [asyncio.create_task(_client(chaos, each, over)) for each in questions]
    following = asyncio.create_task(_follow(transport))
    try:
        await _strike(chaos, random, kinds, options.interruptions)
    finally:
        over.set()
    screen.say("no more strikes; the last answers come to their ends")
    await asyncio.gather(*clients)
    following.cancel()
    gateway.terminate()
    await transport.aclose()
    return _certify(options, chaos, time.monotonic() - began)


async def _follow(transport: synkti_client.AsyncContinuousTransport) -> None:
    """What an application gets by asking now and then: here the whole fleet is another one within seconds."""
    while True:
        await transport.refresh()
        await asyncio.sleep(_REFRESH_S)


async def _gateway(
    urls: list[str], aws: dict[str, str], folder: Path, log: Path
) -> tuple[subprocess.Popen[bytes], str]:
    """A gateway as its user runs it. It is given one node and the cluster, and has to learn of the others."""
    port = free_port()
    command = [sys.executable, "-m", "cli", "gateway", "--port", str(port), "--node", urls[0], "--cluster", _CLUSTER]
    environ = {**os.environ, **aws, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "client")))}
    process = start(command, folder / "gateway", environ, log)
    url, give_up_at = f"http://127.0.0.1:{port}", time.monotonic() + _GATEWAY_WITHIN_S
    async with httpx.AsyncClient(timeout=2.0) as http:
        while True:
            try:
                if (await http.get(f"{url}/v1/models")).status_code == 200:
                    return process, url
            except httpx.TransportError:
                if time.monotonic() > give_up_at:
                    raise LocalRunError(f"the gateway did not start; its log ends:\n{tail(log)}") from None
                await asyncio.sleep(0.05)


async def _learn_answers(chaos: Chaos) -> None:
    """What a real engine answers is known only by asking it, before anything is done to it."""
    chaos.screen.say("the right answers are learned in calm")
    rng = Random(0)  # noqa: S311 # any will do
    while len(chaos.answers) < chaos.scale.texts * 2:
        question = draw(rng, chaos.scale.tokens, texts=chaos.scale.texts, choices=chaos.scale.choices)
        if question.stop or question.echo or question.key in chaos.answers:
            continue
        plain = Question(question.chat, question.text, question.max_tokens, "client", ids=True)
        heard = await chaos.ask(plain)
        if heard.error or heard.pauses:
            raise LocalRunError(f"an answer in calm was not calm: {heard.error or heard.pauses}")
        chaos.answers[plain.key] = heard.answers[0]


async def _client(chaos: Chaos, random: Random, over: asyncio.Event) -> None:
    while not over.is_set():
        question = draw(random, chaos.scale.tokens, texts=chaos.scale.texts, choices=chaos.scale.choices)
        if question.key not in chaos.answers:
            if chaos.scale is _SCALES[VLLM]:
                continue  # nobody knows the right answer
            chaos.answers[question.key] = known_answer(question)
        heard = await chaos.ask(question)
        chaos.heard.append(heard)
        if heard.error or heard.odd:
            chaos.screen.say(f"a client saw: {heard.error or heard.odd} ({question})", style="bold red")


async def _strike(chaos: Chaos, random: Random, kinds: list[Kind], interruptions: int) -> None:
    fleet, under_way, losses = chaos.fleet, set[asyncio.Task[None]](), Losses(asyncio.get_running_loop().time)
    for kind in deck(random, kinds):
        if sum(chaos.done.values()) >= interruptions:
            break
        await asyncio.sleep(random.uniform(*_EVERY_S))
        least = chaos.scale.least_calm + kind.victims - 1
        if least >= chaos.scale.nodes:
            continue
        await fleet.until("nodes are calm again", lambda: len(fleet.calm) > least, chaos.engine.ready_within_s)  # noqa: B023 # awaited here
        await losses.room_for(kind)
        chosen = await victims(fleet, kind, random)
        if len(chosen) < kind.victims:
            continue
        ids = {machine.instance_id for machine in chosen}
        fleet.struck |= ids
        chaos.struck_by |= dict.fromkeys(ids, kind.name)
        chaos.done[kind.name] += 1
        task = asyncio.create_task(_one(chaos, kind, chosen))
        under_way.add(task)
        task.add_done_callback(under_way.discard)
        count = sum(chaos.done.values())
        if count % _TELL_EVERY == 0:
            bad = sum(bool(heard.error or heard.odd) for heard in chaos.heard)
            chaos.screen.say(f"{count} strikes, {len(chaos.heard)} answers, {bad} bad")
    await asyncio.gather(*under_way)


async def _one(chaos: Chaos, kind: Kind, chosen: list) -> None:  # type: ignore[type-arg] # of Machine
    try:
        await kind.strike(chaos.fleet, chosen)
    finally:
        chaos.fleet.struck -= {machine.instance_id for machine in chosen if machine.running}


def _certify(options: argparse.Namespace, chaos: Chaos, duration_s: float) -> bool:
    accounts = [account for at, heard in enumerate(chaos.heard) for account in chaos.account(at, heard)]
    document = certificates.certificate(options.engine, options.seed, dict(chaos.done), accounts, duration_s)
    chains = document.pop("chains")
    (options.out / "chains.json").write_text(certificates.to_json(chains))
    (options.out / "certificate.json").write_text(certificates.to_json(document))
    chaos.screen.document(certificates.to_json(document))
    for account in accounts:
        if not account.verified:
            heard = chaos.heard[int(account.name.partition(".")[0])]
            chaos.screen.say(f"stream {account.name}: {heard.question} {heard.pauses} {heard.error}", style="red")
            chaos.screen.say(f"  {_first_difference(account)}")
    kept = certificates.holds(document)
    words = "kept" if kept else "BROKEN"
    chaos.screen.say(
        f"{words}: an interruption costs a client a pause, never a token", style="bold" if kept else "bold red"
    )
    return kept


def _first_difference(account: StreamAccount) -> str:
    right, got = account.reference, account.delivered
    at = next(
        (n for n, (a, b) in enumerate(zip(right.ids, got.ids, strict=False)) if a != b),
        min(len(right.ids), len(got.ids)),
    )
    return f"{len(got.ids)} of {len(right.ids)}, different from {at} on; text ends {got.text[-40:]!r}"


if __name__ == "__main__":
    sys.exit(main())
