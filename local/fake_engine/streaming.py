"""The chunks of a streamed answer: its choices in turns, changed by a fault. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import replace

from local.fake_engine.answers import SamplingParams, Step, generate_steps
from local.fake_engine.chunks import OpenAiFormatter
from local.fake_engine.events import EventFormatter
from local.fake_engine.faults import Chunk, ConnectionEnd, Fault, FaultKind, inject_fault

AnyFormatter = OpenAiFormatter | EventFormatter


def stream_chunks(
    form: AnyFormatter, sampling: SamplingParams, max_model_len: int, fault: Fault | None
) -> Iterator[Chunk | ConnectionEnd]:
    """Yield a stream's chunks, changed by the fault if there is one."""
    runs: list[Iterator[Step]] = [
        generate_steps(prompt, sampling.for_choice(number), max_model_len)
        for prompt in form.prompts
        for number in range(form.n)
    ]
    at_once = 0 if sampling.per_token else len(sampling.resume_ids)
    if fault is None:
        yield from _interleave(form, runs, at_once)
        return
    if fault.kind is FaultKind.BEFORE_FINISH:
        runs = [_without_finish_reason(run) for run in runs]
    yield from inject_fault(fault, _interleave(form, runs, at_once), form.error_payloads)


def _without_finish_reason(run: Iterator[Step]) -> Iterator[Step]:
    return (replace(step, finish_reason=None, stop_reason=None) for step in run)


def _interleave(form: AnyFormatter, runs: Iterable[Iterator[Step]], at_once: int) -> Iterator[Chunk]:
    """Yield the choices' chunks in turns. at_once: the number of first steps that share the next one's chunk."""
    if not isinstance(form, OpenAiFormatter) or form.chat:
        yield from (form.role_chunk(index) for index in range(form.choice_count))
    for turn in itertools.zip_longest(*(form.choice_chunks(index, run, at_once) for index, run in enumerate(runs))):
        yield from (chunk for chunk in turn if chunk is not None)
