"""Validate a request's ids in the API server, and pass outputs to parsers one by one where that matters.

Why one by one: vLLM merges the outputs of a request whose consumer is slower, and a parser of reasoning or tool calls
that receives a hundred tokens at once gives another output than for one after another (deepseek_r1's lets the tag of
the reasoning's start through). With separate outputs it passes through the states of the first time. A stream that
emits its ids gets separate outputs throughout: what its parsers give is then a function of the ids alone, in the first
engine, too.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import vllm.plugins
from vllm.exceptions import VLLMValidationError
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.input_processor import InputProcessor
from vllm.v1.engine.output_processor import OutputProcessor, RequestOutputCollector

from synkti_engine import token_id_emitter
from synkti_engine.arguments import EMIT_IDS, FORCED_IDS, RESUME_IDS, BadArguments, begun, check, ids_in, per_token
from synkti_engine.patching import Function, wrap_method


def install() -> None:
    """Wrap vLLM's functions of the API server. Raises AttributeError where vLLM does not have one."""
    wrap_method(InputProcessor, "process_inputs", _validate_arguments)
    wrap_method(OutputProcessor, "add_request", _keep_outputs_separate)
    wrap_method(AsyncLLM, "generate", _emit_ids)
    wrap_method(vllm.plugins, "load_endpoint_plugins", _with_endpoint)


def _with_endpoint(load: Function) -> Function:
    """Return a loader that adds the endpoint plug-in.

    vLLM loads these while it makes the API server's app, and only there. An operator allows endpoint plug-ins by name
    because they add routes; this one has none, and installing it allows it.
    """

    def load_endpoint_plugins(*args: Any, **kwargs: Any) -> list[Any]:
        return [*load(*args, **kwargs), token_id_emitter.TokenIdEndpoint()]

    return load_endpoint_plugins


def _emit_ids(generate: Function) -> Function:
    def generate_and_emit(self: AsyncLLM, prompt: Any, sampling_params: Any, *args: Any, **kwargs: Any) -> Any:
        outputs = generate(self, prompt, sampling_params, *args, **kwargs)
        if (
            not (sampling_params.extra_args or {}).get(EMIT_IDS)
            or (emitter := token_id_emitter.current_emitter.get()) is None
        ):
            return outputs
        try:
            cumulative = sampling_params.output_kind == RequestOutputKind.CUMULATIVE
            return token_id_emitter.emit_for(outputs, emitter, choices=sampling_params.n, cumulative=cumulative)
        except BadArguments as bad:
            raise VLLMValidationError(str(bad), parameter="vllm_xargs") from bad

    return generate_and_emit


def _validate_arguments(process: Function) -> Function:
    def process_inputs(self: InputProcessor, *args: Any, **kwargs: Any) -> Any:
        request = process(self, *args, **kwargs)
        params = request.sampling_params
        if isinstance(params, SamplingParams) and params.extra_args:
            try:
                _validate(self, request)
            except BadArguments as bad:
                raise VLLMValidationError(str(bad), parameter="vllm_xargs") from bad
        return request

    return process_inputs


def _validate(processor: InputProcessor, request: Any) -> None:
    """Raise BadArguments where the ids are invalid. `params` is the request's own: vLLM copied it."""
    params, model = request.sampling_params, processor.model_config
    for name in (RESUME_IDS, FORCED_IDS):
        ids = ids_in(params.extra_args, name)
        if not ids:
            continue
        if request.prompt_token_ids is None:
            raise BadArguments(f"{name} needs a prompt of token ids")
        room = model.max_model_len - len(request.prompt_token_ids)
        check(ids, vocabulary=model.get_vocab_size(), max_tokens=params.max_tokens, room=room, choices=params.n)
        if name == RESUME_IDS:
            _begin(params, ids, min(params.max_tokens, room))


def _begin(params: SamplingParams, ids: list[int], most: int) -> None:
    # Both exclude the model's end tokens where the request ignores those.
    ends = {*(params.stop_token_ids or ()), params.eos_token_id} - {None}
    kept, last = begun(ids, ends, most)
    params.extra_args = {**params.extra_args, RESUME_IDS: kept}
    if last is not None:
        # With one allowed id, only that id is drawn. What forbids an id (a grammar, min_tokens, bad words) allowed this
        # one the first time, and has the same state now.
        params.allowed_token_ids = [last]


class _SeparateOutputs(RequestOutputCollector):  # type: ignore[misc] # vLLM has no types here
    """Holds outputs that its consumer lags behind with, unmerged. left: how many more; later ones are merged."""

    output: Any
    held: deque[Any]
    left: int

    def put(self, output: Any) -> None:
        is_first = self.output is None and not self.held
        if is_first or isinstance(output, Exception):
            super().put(output)
        elif self.left > 0:
            self.held.append(output)
        else:
            (self.held[-1] if self.held else self.output).add(output, aggregate=self.aggregate)
        self.left -= 1

    async def get(self) -> Any:
        output = await super().get()
        self._next()
        return output

    def get_nowait(self) -> Any:
        output = super().get_nowait()
        self._next()
        return output

    def _next(self) -> None:
        if self.held and self.output is None:
            self.output = self.held.popleft()
            self.ready.set()


def _separate_outputs(params: Any) -> int:
    """Return how many of a request's outputs are handed on unmerged."""
    return (int(params.max_tokens) + 1) * int(params.n) if params and per_token(params.extra_args) else 0


def _keep_outputs_separate(add: Function) -> Function:
    def add_request(self: OutputProcessor, request: Any, prompt: Any, *args: Any, **kwargs: Any) -> None:
        queue = kwargs.get("queue", args[2] if len(args) > 2 else None)
        if queue is not None and (count := _separate_outputs(request.sampling_params)):
            queue.__class__ = _SeparateOutputs
            queue.held, queue.left = deque(), count
        add(self, request, prompt, *args, **kwargs)

    return add_request
