"""Measures how long a stream of a real vLLM is silent, with its model in the core's process and in another.

    .venv/bin/python -m bench.silences [--rounds 12]

Two engines of the tiny model on this machine, asked in turns for one long answer at a time, by a client that does
nothing but read. On two cores the two processes of the second spin while they wait for each other, and the thread that
sends the tokens is not run: local/engine_env.py says what follows from it. On a GPU vLLM has one process, too.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import httpx
from rich.console import Console
from rich.table import Table

from bench.command import parse_rounds
from bench.context_engine import MODEL, context_engine

TOKENS, MAX_TOKENS = 1500, 4096
LONG_S = 0.5
ONE, BESIDE = "in one process", "in a process beside it"


@dataclass(frozen=True)
class StreamSilence:
    """One stream's duration and longest silence, in seconds, the wait for its first token included."""

    whole_s: float
    silence_s: float


def read_stream(url: str) -> StreamSilence:
    """Read one stream of TOKENS tokens from the engine at this base URL. Raises httpx.HTTPError."""
    body = {"model": MODEL, "prompt": "It was a dark night", "max_tokens": TOKENS, "ignore_eos": True, "stream": True}
    began = last = time.monotonic()
    longest = 0.0
    with httpx.stream("POST", f"{url}/v1/completions", json={**body, "temperature": 1.3}, timeout=120) as response:
        response.raise_for_status()
        for _ in response.iter_bytes():
            now = time.monotonic()
            longest, last = max(longest, now - last), now
    return StreamSilence(last - began, longest)


def report(silences: dict[str, list[StreamSilence]]) -> Table:
    """Build the table: how many streams were silent for more than LONG_S, and for how long. silences: by engine."""
    shown = Table(title=f"streams of {TOKENS} tokens, one at a time")
    for column in ("the model is", f"silent for more than {LONG_S} s", "longest silence", "whole stream, median"):
        shown.add_column(column)
    for name, streams in silences.items():
        long = sum(each.silence_s > LONG_S for each in streams)
        longest = max(each.silence_s for each in streams)
        whole = median(each.whole_s for each in streams)
        shown.add_row(name, f"{long} of {len(streams)}", f"{longest:.2f} s", f"{whole:.2f} s")
    return shown


def main() -> int:
    """Measure both engines in turns, and print the table; return 0."""
    count = parse_rounds("bench.silences", default=12, what="of two streams, one of each engine")
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        in_one = context_engine(scratch / "one", MAX_TOKENS, keeps=False)
        in_two = context_engine(scratch / "beside", MAX_TOKENS, keeps=False, executor="mp")
        with in_one as one, in_two as two:
            urls = {ONE: one.url, BESIDE: two.url}
            silences: dict[str, list[StreamSilence]] = {name: [] for name in urls}
            for number in range(count + 1):
                for name, url in urls.items():
                    stream = read_stream(url)
                    if number:  # the first warms
                        silences[name].append(stream)
    Console().print(report(silences))
    return 0


if __name__ == "__main__":
    sys.exit(main())
