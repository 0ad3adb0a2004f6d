"""Start a request, in the engine core, with ids that it has already: in the state of a preempted request.

vLLM resumes a preempted request with one prefill over the prompt and all ids so far. A resumed request is put in that
state before it is first scheduled; its grammar accepts the ids; and the first output carries them all, so that the API
server's detokenizer, stop strings, parsers and usage see a whole answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreOutput
from vllm.v1.request import Request
from vllm.v1.structured_output import StructuredOutputManager

from synkti_engine.arguments import EMIT_IDS, RESUME_IDS, ids_in, per_token
from synkti_engine.patching import Function, wrap_classmethod, wrap_method

_unsent: dict[str, list[int]] = {}
"""Ids of scheduled requests that the API server has not received yet, by request id; removed with the request."""

_one_per_output: set[str] = set()
"""Requests whose outputs carry one id each, however many a step made (speculative decoding); removed at their end."""


def install() -> None:
    """Wrap vLLM's functions of the engine core. Raises AttributeError where vLLM does not have one."""
    wrap_classmethod(Request, "from_engine_core_request", _with_resumed_ids)
    wrap_method(StructuredOutputManager, "_create_grammar", _advance_grammar)
    wrap_method(Scheduler, "add_request", _track_request)
    wrap_method(Scheduler, "update_from_output", _add_unsent_ids)
    wrap_method(Scheduler, "finish_requests", _forget_finished)


def _extra(request: Any) -> dict[str, Any]:
    params = request.sampling_params
    return (params and params.extra_args) or {}


def _with_resumed_ids(make: Function) -> Function:
    def from_engine_core_request(cls: type, request: Any, block_hasher: Any) -> Any:
        made = make(cls, request, block_hasher)
        if ids := ids_in(_extra(made), RESUME_IDS):
            made.append_output_token_ids(list(ids))
            # vLLM counts a first prefill by its prompt, and ends where the prefix cache has more than that: it has,
            # where a stream comes back to an engine that made its decode blocks.
            made.prefill_stats = None
        return made

    return from_engine_core_request


def _advance_grammar(create: Function) -> Function:
    """Advance a new grammar over the ids, as StructuredOutputManager.accept_tokens does after each step."""

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


def _track_request(add: Function) -> Function:
    def add_request(self: Scheduler, request: Any) -> None:
        if ids := ids_in(_extra(request), RESUME_IDS):
            _unsent[request.request_id] = ids
        if _extra(request).get(EMIT_IDS):
            _one_per_output.add(request.request_id)
        add(self, request)

    return add_request


def _forget_finished(finish: Function) -> Function:
    def finish_requests(self: Scheduler, request_ids: Any, finished_status: Any) -> Any:
        finished = finish(self, request_ids, finished_status)
        for request in finished:
            _unsent.pop(request.request_id, None)
            _one_per_output.discard(request.request_id)
        return finished

    return finish_requests


def _add_unsent_ids(update: Function) -> Function:
    def update_from_output(self: Scheduler, *args: Any, **kwargs: Any) -> Any:
        requests = {name: self.requests[name] for name in _unsent if name in self.requests} if _unsent else {}
        updated = update(self, *args, **kwargs)
        if requests or _one_per_output:
            for one in updated.values():
                one.outputs = list(_with_unsent(one.outputs, requests))
        return updated

    return update_from_output


def _with_unsent(outputs: Iterable[Any], requests: dict[str, Any]) -> Iterable[Any]:
    for output in outputs:
        name = output.request_id
        is_over = output.finish_reason is not None
        ids = _unsent.pop(name, None) if output.new_token_ids or is_over else None
        if ids and output.new_token_ids and name in requests:
            whole = _prepend(output, ids)
            yield from _split(whole) if per_token(_extra(requests[name])) else (whole,)
        else:
            yield from _split(output) if name in _one_per_output else (output,)
        if is_over:
            _one_per_output.discard(name)


def _prepend(output: Any, ids: list[int]) -> Any:
    output.new_token_ids = [*ids, *output.new_token_ids]
    if output.new_logprobs is not None:
        output.new_logprobs = _joined(_padding(output.new_logprobs, ids), output.new_logprobs)
    return output


def _split(output: Any) -> Iterable[Any]:
    """Split an output into one per id."""
    ids, logprobs = output.new_token_ids, output.new_logprobs
    for place, token in enumerate(ids[:-1]):
        own = None if logprobs is None else _row(logprobs, place)
        piece = EngineCoreOutput(request_id=output.request_id, new_token_ids=[token], new_logprobs=own)
        # The events of a request's first output go with its first part.
        piece.events, output.events = output.events, None
        yield piece
    if len(ids) > 1:
        output.new_token_ids = ids[-1:]
        output.new_logprobs = None if logprobs is None else _row(logprobs, len(ids) - 1)
    yield output


def _padding(logprobs: Any, ids: list[int]) -> Any:
    """Pad logprobs for ids whose logprobs were not computed: the client has them, and these never reach it."""
    candidates = np.repeat(logprobs.logprob_token_ids[:1], len(ids), axis=0)
    candidates[:, 0] = ids
    return logprobs._replace(
        logprob_token_ids=candidates,
        logprobs=np.zeros((len(ids), logprobs.logprobs.shape[1]), logprobs.logprobs.dtype),
        sampled_token_ranks=np.ones(len(ids), logprobs.sampled_token_ranks.dtype),
    )


_ROWS = ("logprob_token_ids", "logprobs", "sampled_token_ranks")
"""The arrays of logprobs that have a row per id."""


def _joined(first: Any, second: Any) -> Any:
    return second._replace(**{name: np.concatenate([getattr(first, name), getattr(second, name)]) for name in _ROWS})


def _row(logprobs: Any, place: int) -> Any:
    return logprobs._replace(**{name: getattr(logprobs, name)[place : place + 1] for name in _ROWS})
