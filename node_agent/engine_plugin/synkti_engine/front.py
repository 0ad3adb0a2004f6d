"""In the API server: a request's ids are validated here, and told to parsers one by one where that matters.

Why one by one: vLLM joins the outputs of a request whose consumer is slower, and a parser of reasoning or tool calls
that is given a hundred tokens at once does not say what it says of one after another (deepseek_r1's lets the tag of
the reasoning's start through). Told apart, it goes through the states that it went through the first time. Of a stream
whose ids are told every output is: what its parsers say is then a function of the ids alone, in the first engine, too.
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

from synkti_engine import telling
from synkti_engine.arguments import FORCED_IDS, RESUME_IDS, TELL_IDS, BadArguments, begun, check, ids_in, one_by_one
from synkti_engine.patching import Function, around


def install() -> None:
    around(InputProcessor, "process_inputs", _validated)
    around(OutputProcessor, "add_request", _told_apart)
    around(AsyncLLM, "generate", _noted)
    around(vllm.plugins, "load_endpoint_plugins", _with_telling)


def _with_telling(load: Function) -> Function:
    """vLLM asks for these while it makes the API server's app, and only there. What it lets an operator allow by name
    is more routes; this has none, and whoever installed the plug-in allowed it."""

    def load_endpoint_plugins(*args: Any, **kwargs: Any) -> list[Any]:
        return [*load(*args, **kwargs), telling.TokenIdEndpoint()]

    return load_endpoint_plugins


def _noted(generate: Function) -> Function:
    def noted(self: AsyncLLM, prompt: Any, sampling_params: Any, *args: Any, **kwargs: Any) -> Any:
        outputs = generate(self, prompt, sampling_params, *args, **kwargs)
        if not (sampling_params.extra_args or {}).get(TELL_IDS) or (told := telling.current_emitter.get()) is None:
            return outputs
        try:
            cumulative = sampling_params.output_kind == RequestOutputKind.CUMULATIVE
            return telling.emit_for(outputs, told, choices=sampling_params.n, cumulative=cumulative)
        except BadArguments as bad:
            raise VLLMValidationError(str(bad), parameter="vllm_xargs") from bad

    return noted


def _validated(process: Function) -> Function:
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
    """Raises BadArguments. params is the request's own: vLLM copied it."""
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
    # Both are without the model's ends where the request ignores those.
    ends = {*(params.stop_token_ids or ()), params.eos_token_id} - {None}
    kept, last = begun(ids, ends, most)
    params.extra_args = {**params.extra_args, RESUME_IDS: kept}
    if last is not None:
        # Where nothing else is allowed nothing else is drawn. What forbids an id (a grammar, min_tokens, bad words)
        # allowed this one the first time, and stands where it stood then.
        params.allowed_token_ids = [last]


class _Apart(RequestOutputCollector):  # type: ignore[misc] # vLLM has no types here
    """Holds outputs that its consumer is behind with, each for itself. left: how many more; then they are joined."""

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


def _apart(params: Any) -> int:
    """How many of a request's outputs are handed on each for itself."""
    return (int(params.max_tokens) + 1) * int(params.n) if params and one_by_one(params.extra_args) else 0


def _told_apart(add: Function) -> Function:
    def add_request(self: OutputProcessor, request: Any, prompt: Any, *args: Any, **kwargs: Any) -> None:
        queue = kwargs.get("queue", args[2] if len(args) > 2 else None)
        if queue is not None and (apart := _apart(request.sampling_params)):
            queue.__class__ = _Apart
            queue.held, queue.left = deque(), apart
        add(self, request, prompt, *args, **kwargs)

    return add_request
