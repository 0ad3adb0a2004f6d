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

from synkti_engine.arguments import RESUME_IDS, ids_in, one_by_one
from synkti_engine.patching import Function, around, around_classmethod

_untold: dict[str, list[int]] = {}
"""Ids of scheduled requests that the API server was not told yet, by request id; gone with the request."""


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
        add(self, request)

    return add_request


def _forgotten(finish: Function) -> Function:
    def finish_requests(self: Scheduler, request_ids: Any, finished_status: Any) -> Any:
        finished = finish(self, request_ids, finished_status)
        for request in finished:
            _untold.pop(request.request_id, None)
        return finished

    return finish_requests


def _told(update: Function) -> Function:
    def update_from_output(self: Scheduler, *args: Any, **kwargs: Any) -> Any:
        requests = {name: self.requests[name] for name in _untold if name in self.requests} if _untold else {}
        told = update(self, *args, **kwargs)
        if requests:
            for one in told.values():
                one.outputs = list(_with_untold(one.outputs, requests))
        return told

    return update_from_output


def _with_untold(outputs: Iterable[Any], requests: dict[str, Any]) -> Iterable[Any]:
    for output in outputs:
        request = requests.get(output.request_id)
        ids = _untold.pop(output.request_id, None) if output.new_token_ids or output.finish_reason is not None else None
        if request is None or not ids or not output.new_token_ids:
            yield output
        elif one_by_one(_extra(request)):
            yield from _pieces(output, ids)
        else:
            yield _whole(output, ids)


def _whole(output: Any, ids: list[int]) -> Any:
    output.new_token_ids = [*ids, *output.new_token_ids]
    if output.new_logprobs is not None:
        output.new_logprobs = _joined(_padding(output.new_logprobs, ids), output.new_logprobs)
    return output


def _pieces(output: Any, ids: list[int]) -> Iterable[Any]:
    for token in ids:
        logprobs = None if output.new_logprobs is None else _padding(output.new_logprobs, [token])
        piece = EngineCoreOutput(request_id=output.request_id, new_token_ids=[token], new_logprobs=logprobs)
        # What the first output of a request says beside its ids, the first piece does.
        piece.events, output.events = output.events, None
        yield piece
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


def _joined(first: Any, second: Any) -> Any:
    fields = ("logprob_token_ids", "logprobs", "sampled_token_ranks")
    return second._replace(**{name: np.concatenate([getattr(first, name), getattr(second, name)]) for name in fields})
