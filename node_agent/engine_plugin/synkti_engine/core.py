"""In the engine's core: a request begins with ids, as one does that was preempted and comes back.

vLLM knows how to go on with a request whose blocks were taken: one prefill over the prompt and all ids so far. A
request that is resumed is put in that state before it is scheduled first; its grammar is led over the ids; and the
first output tells them all, so that the API server's detokenizer, stop strings, parsers and usage see a whole answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreOutput
from vllm.v1.request import Request
from vllm.v1.structured_output import StructuredOutputManager

from synkti_engine.arguments import RESUME_IDS, TELL_IDS, ids_in, one_by_one
from synkti_engine.patching import Function, around, around_classmethod

_untold: dict[str, list[int]] = {}
"""Ids of scheduled requests that the API server was not told yet, by request id; gone with the request."""

_singly: set[str] = set()
"""Requests whose outputs have one id each, however many a step made of them (speculative decoding); gone with them."""


def install() -> None:
    around_classmethod(Request, "from_engine_core_request", _begun)
    around(StructuredOutputManager, "_create_grammar", _led)
    around(Scheduler, "add_request", _noted)
    around(Scheduler, "update_from_output", _told)
    around(Scheduler, "finish_requests", _forgotten)


def _extra(request: Any) -> dict[str, Any]:
    params = request.sampling_params
    return (params and params.extra_args) or {}


def _begun(make: Function) -> Function:
    def from_engine_core_request(cls: type, request: Any, block_hasher: Any) -> Any:
        made = make(cls, request, block_hasher)
        if ids := ids_in(_extra(made), RESUME_IDS):
            made.append_output_token_ids(list(ids))
            # vLLM counts a first prefill by its prompt, and ends where the prefix cache has more than that: it has,
            # where a stream comes back to an engine that made its decode blocks.
            made.prefill_stats = None
        return made

    return from_engine_core_request


def _led(create: Function) -> Function:
    """As StructuredOutputManager.accept_tokens does after each step; here the grammar is not the request's yet."""

    def _create_grammar(self: StructuredOutputManager, request: Any) -> Any:
        grammar = create(self, request)
        ids = list(request.output_token_ids)
        if not ids:
            return grammar
        start = self._get_constraint_bounds(request, ids, spec_tokens_committed=True).grammar_start
        if start <= len(ids):
            request.structured_output_request.reasoning_ended = True
            if not grammar.accept_tokens(request.request_id, ids[start:]):
                raise ValueError(f"{RESUME_IDS}: the grammar does not accept them")
        return grammar

    return _create_grammar


def _noted(add: Function) -> Function:
    def add_request(self: Scheduler, request: Any) -> None:
        if ids := ids_in(_extra(request), RESUME_IDS):
            _untold[request.request_id] = ids
        if _extra(request).get(TELL_IDS):
            _singly.add(request.request_id)
        add(self, request)

    return add_request


def _forgotten(finish: Function) -> Function:
    def finish_requests(self: Scheduler, request_ids: Any, finished_status: Any) -> Any:
        finished = finish(self, request_ids, finished_status)
        for request in finished:
            _untold.pop(request.request_id, None)
            _singly.discard(request.request_id)
        return finished

    return finish_requests


def _told(update: Function) -> Function:
    def update_from_output(self: Scheduler, *args: Any, **kwargs: Any) -> Any:
        requests = {name: self.requests[name] for name in _untold if name in self.requests} if _untold else {}
        told = update(self, *args, **kwargs)
        if requests or _singly:
            for one in told.values():
                one.outputs = list(_with_untold(one.outputs, requests))
        return told

    return update_from_output


def _with_untold(outputs: Iterable[Any], requests: dict[str, Any]) -> Iterable[Any]:
    for output in outputs:
        name = output.request_id
        is_over = output.finish_reason is not None
        ids = _untold.pop(name, None) if output.new_token_ids or is_over else None
        if ids and output.new_token_ids and name in requests:
            whole = _whole(output, ids)
            yield from _pieces(whole) if one_by_one(_extra(requests[name])) else (whole,)
        else:
            yield from _pieces(output) if name in _singly else (output,)
        if is_over:
            _singly.discard(name)


def _whole(output: Any, ids: list[int]) -> Any:
    output.new_token_ids = [*ids, *output.new_token_ids]
    if output.new_logprobs is not None:
        output.new_logprobs = _joined(_padding(output.new_logprobs, ids), output.new_logprobs)
    return output


def _pieces(output: Any) -> Iterable[Any]:
    """One output for each id."""
    ids, logprobs = output.new_token_ids, output.new_logprobs
    for place, token in enumerate(ids[:-1]):
        own = None if logprobs is None else _row(logprobs, place)
        piece = EngineCoreOutput(request_id=output.request_id, new_token_ids=[token], new_logprobs=own)
        # What the first output of a request says beside its ids, the first piece does.
        piece.events, output.events = output.events, None
        yield piece
    if len(ids) > 1:
        output.new_token_ids = ids[-1:]
        output.new_logprobs = None if logprobs is None else _row(logprobs, len(ids) - 1)
    yield output


def _padding(logprobs: Any, ids: list[int]) -> Any:
    """Logprobs of ids whose logprobs nobody computed: the client has them, and what stands here never reaches it."""
    candidates = np.repeat(logprobs.logprob_token_ids[:1], len(ids), axis=0)
    candidates[:, 0] = ids
    return logprobs._replace(
        logprob_token_ids=candidates,
        logprobs=np.zeros((len(ids), logprobs.logprobs.shape[1]), logprobs.logprobs.dtype),
        sampled_token_ranks=np.ones(len(ids), logprobs.sampled_token_ranks.dtype),
    )


_ROWS = ("logprob_token_ids", "logprobs", "sampled_token_ranks")
"""What logprobs have for each id."""


def _joined(first: Any, second: Any) -> Any:
    return second._replace(**{name: np.concatenate([getattr(first, name), getattr(second, name)]) for name in _ROWS})


def _row(logprobs: Any, place: int) -> Any:
    return logprobs._replace(**{name: getattr(logprobs, name)[place : place + 1] for name in _ROWS})
