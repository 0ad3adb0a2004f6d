"""Generates outputs step by step, with vLLM's detokenizer and stop rules; reads sampling parameters. Pure.

Rules kept from vLLM 0.32 (v1/engine/detokenizer.py):

* a text is sent only when its characters are whole: the steps before carry ids and an empty text;
* with stop strings the last `max(len(stop)) - 1` characters are held back until the answer ends;
* a stop string ends the answer in front of it, after `min_tokens`; the ids of it stay;
* a prompt that ends inside a character makes the first text carry the *whole prompt*: continuation must avoid it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from local.fake_engine import model

_MAX_N = 16
_MAX_LOGPROBS = 20
"""vLLM's --max-logprobs."""


class BadRequest(ValueError):
    """A request that vLLM answers with 400, or with `status`. param: the invalid field."""

    def __init__(self, message: str, param: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.param = param
        self.status = status


@dataclass(frozen=True)
class SamplingParams:
    """How an answer is sampled.

    max_tokens: None for the rest of the context; seed: None for greedy sampling; resume_ids: the ids that the answer
    already has (the plug-in's argument); per_token: send those ids one by one.
    """

    max_tokens: int | None = None
    min_tokens: int = 0
    ignore_eos: bool = False
    stop: tuple[str, ...] = ()
    include_stop: bool = False
    seed: int | None = None
    resume_ids: tuple[int, ...] = ()
    per_token: bool = False

    def for_choice(self, number: int) -> SamplingParams:
        """Return the parameters of one choice: vLLM adds its number to the seed."""
        return self if self.seed is None else replace(self, seed=self.seed + number)

    @property
    def stop_holdback_chars(self) -> int:
        """The number of last characters that are not sent before the answer ends."""
        return max(map(len, self.stop)) - 1 if self.stop and not self.include_stop else 0


@dataclass(frozen=True)
class Step:
    """One token and the text that it completes; the last one has a finish_reason."""

    token: int
    text: str
    finish_reason: str | None = None
    stop_reason: str | None = None


@dataclass(frozen=True)
class CompletionOutput:
    """The complete output of one choice."""

    token_ids: tuple[int, ...]
    text: str
    finish_reason: str
    stop_reason: str | None = None


@dataclass
class _Detokenizer:
    """Decodes tokens; releases only complete characters."""

    pending: bytes = b""
    text: str = ""
    released_chars: int = field(default=0)

    def add(self, data: bytes) -> None:
        self.pending += data
        text = self.pending.decode(errors="ignore")
        if text.encode() == self.pending:
            self.text, self.pending = self.text + text, b""

    def release(self, held_back: int) -> str:
        upto = max(self.released_chars, len(self.text) - held_back)
        text, self.released_chars = self.text[self.released_chars : upto], upto
        return text


def generate_steps(prompt: Sequence[int], sampling: SamplingParams, max_model_len: int) -> Iterator[Step]:
    """Generate an answer. prompt: ids that include BEGIN."""
    room = max_model_len - len(prompt)
    limit = room if sampling.max_tokens is None else min(sampling.max_tokens, room)
    continuation = model.TokenSequence(prompt, sampling.seed)
    text = _Detokenizer(pending=_incomplete_character(prompt))
    for count in range(1, limit + 1):
        token = continuation.next(sampling.ignore_eos or count <= sampling.min_tokens)
        if count <= len(sampling.resume_ids):
            token = sampling.resume_ids[count - 1]
        text.add(model.token_bytes(token))
        if token == model.EOS:
            yield Step(token, text.release(0), "stop")
            return
        found = _find_stop(text.text, sampling) if count > sampling.min_tokens else None
        if found is not None:
            at, stop = found
            text.text = text.text[: at + len(stop) if sampling.include_stop else at]
            yield Step(token, text.release(0), "stop", stop)
            return
        if count == limit:
            text.text += text.pending.decode(errors="replace")
            yield Step(token, text.release(0), "length")
            return
        yield Step(token, text.release(sampling.stop_holdback_chars))


def _incomplete_character(prompt: Sequence[int]) -> bytes:
    """Return the bytes that the first text repeats if the prompt ends inside a character, as in vLLM."""
    data = b"".join(map(model.token_bytes, prompt))
    return b"" if data.decode(errors="ignore").encode() == data else data


def _find_stop(text: str, sampling: SamplingParams) -> tuple[int, str] | None:
    found = [(at, stop) for stop in sampling.stop if (at := text.find(stop)) >= 0]
    return min(found, default=None)


def generate(prompt: Sequence[int], sampling: SamplingParams, max_model_len: int = 4096) -> CompletionOutput:
    """Return the complete output."""
    done = list(generate_steps(prompt, sampling, max_model_len))
    last = done[-1]
    return CompletionOutput(
        tuple(s.token for s in done), "".join(s.text for s in done), last.finish_reason or "", last.stop_reason
    )


def read_sampling(body: dict[str, Any], chat: bool, *, has_plugin: bool = False) -> SamplingParams:
    """Read sampling parameters. has_plugin: also the plug-in's arguments. Raises BadRequest."""
    name = "max_completion_tokens" if chat and body.get("max_completion_tokens") is not None else "max_tokens"
    max_tokens = body.get(name)
    if max_tokens is None and not chat:
        max_tokens = 16  # with an explicit null, too
    if max_tokens == 0 and is_echo_only(body, chat):
        max_tokens = 1  # it is generated, and not sent
    if max_tokens is not None and (not isinstance(max_tokens, int) or max_tokens < 1):
        raise BadRequest(f"max_tokens must be at least 1, got {max_tokens}.", "max_tokens")
    min_tokens = body.get("min_tokens") or 0
    if max_tokens is not None and min_tokens > max_tokens:
        raise BadRequest(f"min_tokens must be less than or equal to max_tokens={max_tokens}.", "min_tokens")
    stop = body.get("stop") or ()
    return SamplingParams(
        max_tokens=max_tokens,
        min_tokens=min_tokens,
        ignore_eos=bool(body.get("ignore_eos")),
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        include_stop=bool(body.get("include_stop_str_in_output")),
        seed=body.get("seed") if body.get("temperature") != 0 else None,
        **(_read_plugin_args(body, max_tokens) if has_plugin else {}),
    )


def is_echo_only(body: dict[str, Any], chat: bool) -> bool:
    """Return True if a request is for its prompt and no answer."""
    return not chat and bool(body.get("echo")) and body.get("max_tokens") == 0


def _read_plugin_args(body: dict[str, Any], max_tokens: int | None) -> dict[str, Any]:
    extra = body.get("vllm_xargs") or {}
    ids = extra.get("synkti_resume_ids") or ()
    if any(not 0 <= token < model.VOCABULARY_SIZE for token in ids):
        raise BadRequest(f"{ids} are not all in the vocabulary", "vllm_xargs")
    if max_tokens is not None and len(ids) > max_tokens:
        raise BadRequest(f"{len(ids)} ids are more than max_tokens={max_tokens}", "vllm_xargs")
    return {"resume_ids": tuple(ids), "per_token": bool(extra.get("synkti_apart"))}


def read_n(body: dict[str, Any]) -> int:
    """Return the number of choices of each prompt. Raises BadRequest."""
    n = body.get("n")
    n = 1 if n is None else n
    if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= _MAX_N:
        raise BadRequest(f"n must be from 1 to {_MAX_N}, got {n!r}.", "n")
    if n > 1 and body.get("temperature") == 0:
        raise BadRequest(f"n must be 1 when using greedy sampling, got {n}.", "n")
    return n


def read_logprobs(body: dict[str, Any], chat: bool) -> int | None:
    """Return the number of top tokens for each token; None without logprobs. Raises BadRequest."""
    field = "top_logprobs" if chat else "logprobs"
    count = (body.get("top_logprobs") or 0 if body.get("logprobs") else None) if chat else body.get("logprobs")
    if count is None:
        return None
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= _MAX_LOGPROBS:
        raise BadRequest(f"`{field}` must be from 0 to {_MAX_LOGPROBS}, got {count!r}.", field)
    return count


def read_prompts(body: dict[str, Any], chat: bool, max_model_len: int) -> list[list[int]]:
    """Return the ids of each prompt; a chat has one. Raises BadRequest."""
    if chat:
        return [_check_prompt(read_chat_prompt(body.get("messages")), max_model_len)]
    prompt = body.get("prompt")
    is_batch = isinstance(prompt, list) and bool(prompt) and not isinstance(prompt[0], int)
    prompts = prompt if is_batch and isinstance(prompt, list) else [prompt]
    return [_check_prompt(_completion_prompt(each), max_model_len) for each in prompts]


def read_chat_prompt(messages: object) -> list[int]:
    """Return the ids of a conversation. Raises BadRequest."""
    if not isinstance(messages, list) or not messages:
        raise BadRequest("messages must be a list of at least one message.", "messages")
    if not all(isinstance(message, dict) for message in messages):
        raise BadRequest("messages must be a list of objects.", "messages")
    return model.chat_prompt(messages)


def _completion_prompt(prompt: object) -> list[int]:
    if prompt and isinstance(prompt, str):
        return model.completion_prompt(prompt)
    if prompt and isinstance(prompt, list) and all(isinstance(i, int) for i in prompt):
        return model.completion_prompt(prompt)
    raise BadRequest("prompt must be a text, a list of token ids, or a list of such.", "prompt")


def _check_prompt(ids: list[int], max_model_len: int) -> list[int]:
    outside = [i for i in ids if not 0 <= i < model.VOCABULARY_SIZE]
    if outside:
        raise BadRequest(f"Token id {outside[0]} is out of vocabulary", "prompt")
    if len(ids) >= max_model_len:
        raise BadRequest(
            f"This model's maximum context length is {max_model_len} tokens. However, your prompt has {len(ids)}.",
            "prompt",
        )
    return ids
