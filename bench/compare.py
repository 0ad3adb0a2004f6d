"""Runs `make bench`: Synkti's client API and the Rust vllm-router in turns over the same engine.

    python -m bench.compare [--rounds N] [--quick] [--out FOLDER]

Prints three tables and writes bench.json. Every process works below the run's folder, so that none outlives the run.
Exit code 0: measured; 1: something failed; 2: a person has to mend something first; 130: stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

from bench import figures
from bench.command import RunFolder, run, table
from bench.figures import ROUTER, WHOLE, Memory, Run
from bench.proc import rss_bytes
from bench.proxies import NONE, PEER, ROOT, Proxies, Proxy, has_durability_setting, proxy_name
from bench.router_env import ensure_router, router_version
from local.emulated_instance import free_network
from local.errors import LocalRunError, UserActionRequired

_PACE_S = 0.02
_ONE_STREAM_PACE_S = 0.005
"""Faster for a single stream, because its first-token times need many streams to measure."""

_ONE_STREAM_TOKENS = 32
_LEVELS = (1, 64, 256)
_WHOLE_CLIENTS = 8
_HELD_STREAMS, _HELD_PACE_S, _HELD_SPREAD_S = 1_000, 0.2, 2.0
_HELD_MAX_TOKENS = 1_024
_LOAD_TIMEOUT_S = 60.0
_SETTLE_S = 1.0
_PACKAGES = ("uvloop", "httptools", "orjson")


@dataclass(frozen=True)
class Plan:
    """How much to measure. tokens: of each stream; answers: of each client; held_tokens: when memory is read."""

    rounds: int
    tokens: int
    answers: int
    whole_answers: int
    held_tokens: int


_FULL = Plan(rounds=5, tokens=64, answers=2, whole_answers=1_000, held_tokens=16)
_QUICK = Plan(rounds=1, tokens=32, answers=2, whole_answers=200, held_tokens=8)


def main() -> int:
    """Run the comparison with the options of the command line; return its exit code (see the module)."""
    options = _options()
    plan = _plan(options)
    return run("bench", options.out, lambda run_folder: _compare(plan, run_folder, options.out))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description="Synkti's front door next to the Rust vllm-router.")
    parser.add_argument("--rounds", type=int, help=f"of all doors (default {_FULL.rounds}; with --quick 1)")
    parser.add_argument("--quick", action="store_true", help="under a minute; shows that it works, measures little")
    parser.add_argument("--out", type=Path, default=ROOT / "out", help="where bench.json and the logs go")
    options = parser.parse_args()
    if options.rounds is not None and options.rounds < 1:
        parser.error("--rounds: at least 1")
    options.out = options.out.resolve()
    return options


def _plan(options: argparse.Namespace) -> Plan:
    plan = _QUICK if options.quick else _FULL
    return Plan(**{**asdict(plan), "rounds": options.rounds or plan.rounds})


def _compare(plan: Plan, run_folder: RunFolder, out: Path) -> None:
    screen = run_folder.screen
    logs = out / "bench-logs"
    shutil.rmtree(logs, ignore_errors=True)
    _allow_many_files()
    environment = ensure_router(screen.log)
    screen.log(f"{os.cpu_count()} cores; vllm-router {router_version(environment)}; {plan.rounds} rounds")
    proxies = Proxies(free_network(), run_folder.folder, logs)
    fronts = [proxies.start_router(environment), proxies.start_synkti(NONE)]
    if has_durability_setting():
        fronts.append(proxies.start_synkti(PEER))
    else:
        screen.log(f"left out: {proxy_name(PEER)}; this agent has no SYNKTI_DURABILITY", style="yellow")
    screen.log(f"ready: the engine, {', '.join(proxy.name for proxy in fronts)}")
    memory = [_memory(plan, proxies, proxy) for proxy in fronts]
    screen.log(f"memory measured, {_HELD_STREAMS:,} streams at each")
    runs = []
    for round_number in range(plan.rounds):
        runs += _round(plan, proxies, [proxies.engine, *fronts], round_number)
        screen.log(f"round {round_number + 1} of {plan.rounds}")
    _show(run_folder.console, runs, memory)
    path = out / "bench.json"
    path.write_text(json.dumps(_report(plan, environment, runs, memory), indent=1) + "\n")
    screen.log(f"written: {path}")


def _allow_many_files() -> None:
    """Raise the file limit of this process and its children: a proxy has two sockets for each stream."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 2 * _HELD_STREAMS + 500
    if most != resource.RLIM_INFINITY and most < needed:
        raise UserActionRequired(
            f"only {most} open files are allowed, {needed} are needed; raise the limit (ulimit -Hn)"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _round(plan: Plan, proxies: Proxies, all_proxies: Sequence[Proxy], round_number: int) -> list[Run]:
    by_name = {proxy.name: proxy for proxy in all_proxies}
    runs = []
    for streams in (*_LEVELS, WHOLE):
        proxies.set_pace(_ONE_STREAM_PACE_S if streams == 1 else _PACE_S)
        options = _load_options(plan, streams)
        runs += [
            _run(proxies, by_name[name], streams, round_number, options)
            for name in figures.rotation(list(by_name), round_number)
        ]
    return runs


def _load_options(plan: Plan, streams: int) -> list[str]:
    if streams == WHOLE:
        return ["--whole", "--streams", str(_WHOLE_CLIENTS), "--each", str(plan.whole_answers)]
    one_answer_s = plan.tokens * _PACE_S
    if streams == 1:
        tokens = _ONE_STREAM_TOKENS
        each = round((plan.answers + 1) * one_answer_s / (tokens * _ONE_STREAM_PACE_S))
        return ["--streams", "1", "--each", str(each), "--tokens", str(tokens)]
    options = ["--streams", str(streams), "--each", str(plan.answers), "--tokens", str(plan.tokens)]
    return [*options, "--spread", str(one_answer_s)]


def _run(proxies: Proxies, proxy: Proxy, streams: int, round_number: int, options: Sequence[str]) -> Run:
    """Run one load on one proxy. Raises LocalRunError if an answer is incomplete."""
    try:
        done = subprocess.run(
            _load(proxy, options),
            cwd=proxies.folder,
            env=proxies.environ,
            capture_output=True,
            text=True,
            timeout=_LOAD_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        what = figures.load_name(streams)
        raise LocalRunError(f"{proxy.name}, {what}: no end after {_LOAD_TIMEOUT_S:.0f} s") from error
    if done.returncode:
        last = (done.stderr.strip() or "no output").splitlines()[-1]
        raise LocalRunError(f"the load on {proxy.name} failed: {last}")
    said = json.loads(done.stdout)
    if said["failed"]:
        raise LocalRunError(f"{proxy.name}, {figures.load_name(streams)}: {said['failed']} answers were not whole")
    (first, first_99), (gap, gap_99) = said["first_s"], said["gap_s"] or (0.0, 0.0)
    return Run(proxy.name, streams, round_number, said["units"], said["cpu_s"], (first, first_99), (gap, gap_99))


def _load(proxy: Proxy, options: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "bench.load", proxy.host, str(proxy.port), "--pid", str(proxy.pid), *options]


def _memory(plan: Plan, proxies: Proxies, proxy: Proxy) -> Memory:
    """Measure the memory of a proxy. Raises LocalRunError if a stream ended early."""
    proxies.set_pace(_HELD_PACE_S)
    at_rest = rss_bytes(proxy.pid)
    options = ["--streams", str(_HELD_STREAMS), "--tokens", str(_HELD_MAX_TOKENS), "--hold", str(plan.held_tokens)]
    command = _load(proxy, [*options, "--spread", str(_HELD_SPREAD_S)])
    with subprocess.Popen(
        command, cwd=proxies.folder, env=proxies.environ, stdout=subprocess.PIPE, text=True
    ) as holding:
        try:
            if holding.stdout is None:
                raise AssertionError("it was asked for a pipe")
            said = json.loads(holding.stdout.readline() or '{"live": 0}')
            if said["live"] != _HELD_STREAMS:
                raise LocalRunError(f"{proxy.name}: {said['live']} of {_HELD_STREAMS} streams live")
            with_streams = rss_bytes(proxy.pid)
        finally:
            holding.kill()
    time.sleep(_SETTLE_S)  # until the proxy notices that its clients are gone and ends their streams at the engine
    return Memory(proxy.name, _HELD_STREAMS, plan.held_tokens, at_rest, with_streams)


def _show(console: Console, runs: Sequence[Run], memory: Sequence[Memory]) -> None:
    title = "CPU of the door, for each token (or small request)"
    heads: tuple[str, ...] = ("load", "door", "µs", f"times {ROUTER}", "least-most")
    console.print(table(title, heads, figures.cost_rows(figures.cpu_costs(runs))))
    title = "Added to the engine's own times: first token, between tokens; ms"
    heads = ("load", "door", "first, p50", "first, p99", "between, p50", "between, p99")
    console.print(table(title, heads, figures.added_rows(figures.added_latencies(runs))))
    title = f"Memory at {memory[0].streams:,} live streams, {memory[0].tokens} tokens each so far"
    heads = ("door", "at rest, MiB", "with them, MiB", "each, KiB")
    console.print(table(title, heads, figures.memory_rows(memory), names=1))


def _report(plan: Plan, environment: Path, runs: Sequence[Run], memory: Sequence[Memory]) -> dict[str, Any]:
    return {
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cores": os.cpu_count(), "system": f"{platform.system()} {platform.machine()}"},
        "versions": {
            "commit": _commit(),
            "python": platform.python_version(),
            ROUTER: router_version(environment),
            **{name: version(name) for name in _PACKAGES},
        },
        "plan": asdict(plan),
        "costs": [asdict(cost) for cost in figures.cpu_costs(runs)],
        "added": [asdict(each) for each in figures.added_latencies(runs)],
        "memory": [asdict(each) for each in memory],
        "runs": [asdict(run) for run in runs],
    }


def _commit() -> str:
    """Return the commit, marked if the checkout differs from it; "unknown" outside a repository."""
    records = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return records.stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())
