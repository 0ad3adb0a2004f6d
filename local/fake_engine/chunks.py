"""Writes the bodies and chunks of the two completion routes as vLLM 0.32 does."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from local.fake_engine import model
from local.fake_engine.answers import CompletionOutput, Step
from local.fake_engine.faults import DONE, Chunk, ErrorPayloads
from local.fake_engine.logprobs import ScoredToken, Scorer, chat_logprobs, completion_logprobs


@dataclass(frozen=True)
class OpenAiFormatter:
    """Formats the answer of one request. id: of the response; created: unix seconds.

    Choice i of prompt p has the index p * n + i. echo_only: send the prompt and no answer; logprobs: the number of top
    tokens, None without logprobs.
    """

    chat: bool
    id: str
    created: int
    model: str
    prompts: tuple[tuple[int, ...], ...]
    n: int
    echo: bool
    echo_only: bool
    returns_token_ids: bool
    logprobs: int | None
    includes_usage: bool
    continuous_usage: bool

    @property
    def choice_count(self) -> int:
        """The number of choices of all prompts together."""
        return len(self.prompts) * self.n

    def prompt_of(self, index: int) -> tuple[int, ...]:
        """Return the prompt of a choice."""
        return self.prompts[index // self.n]

    def role_chunk(self, index: int) -> Chunk:
        """Return the first chunk of a chat's choice, which has its role and, if requested, the prompt's ids."""
        choice = {
            "index": index,
            "delta": {"role": "assistant", "content": ""},
            "logprobs": None,
            "finish_reason": None,
        }
        ids = self.prompts[0] if self.returns_token_ids else None
        extra: dict[str, Any] = {"prompt_token_ids": ids, "prompt_text": None}
        if self.continuous_usage:
            extra["usage"] = _usage(len(self.prompts[0]), 0)
        return Chunk(self._event([choice], extra))

    def choice_chunks(self, index: int, steps: Iterator[Step], at_once: int = 0) -> Iterator[Chunk]:
        """Yield one choice's chunks, one a step. at_once: the number of first steps that share the next one's chunk."""
        prompt, offset, count = self.prompt_of(index), 0, 0
        scorer = self._scorer(prompt)
        while together := tuple(itertools.islice(steps, 1 if count else at_once + 1)):
            first, step = not count, together[-1]
            count += len(together)
            echoed = prompt if first and self.echo and not self.chat else ()
            scored: dict[str, Any] | None = None
            if scorer is not None:
                tokens = [scorer.score(token, of_prompt=True) for token in echoed]
                tokens += [scorer.score(each.token) for each in together if not self.echo_only]
                scored, offset = self._scored(tokens, offset), offset + sum(len(token.text) for token in tokens)
            choice: dict[str, Any] = {"index": index}
            text = (self._echo(prompt) if first else "") + self._answer("".join(each.text for each in together))
            choice |= {"delta": {"content": text}} if self.chat else {"text": text}
            choice |= {"logprobs": scored, "finish_reason": step.finish_reason}
            if not self.chat or step.finish_reason is not None:
                choice["stop_reason"] = step.stop_reason
            if not self.chat:
                choice["prompt_token_ids"] = prompt if first and (self.returns_token_ids or self.echo) else None
            choice["token_ids"] = [each.token for each in together] if self.returns_token_ids else None
            extra = {"usage": _usage(len(prompt), count)} if self.continuous_usage else {}
            yield Chunk(self._event([choice], extra), tokens=1)

    def stream_end(self, generated: int) -> bytes:
        """Return what follows the last token: usage if it was requested, and [DONE]."""
        if not self.includes_usage:
            return DONE
        return self._event([], {"usage": _usage(sum(map(len, self.prompts)), generated)}) + DONE

    def truncated_end(self) -> bytes:
        """Return the end of a stream that SIGTERM interrupts."""
        return (self.error_payloads().error if self.chat else b"") + DONE

    def error_payloads(self) -> ErrorPayloads:
        """Return the last events of this answer, where the engine fails."""
        return ErrorPayloads(self._error_chunk("EngineCore encountered an issue."), self._abort_chunk())

    def _error_chunk(self, message: str) -> bytes:
        body = {"error": {"message": message, "type": "InternalServerError", "param": None, "code": 500}}
        return b"data: %b\n\n" % orjson.dumps(body)

    def _abort_chunk(self) -> bytes:
        choice: dict[str, Any] = {"index": 0}
        choice |= {"delta": {"content": ""}} if self.chat else {"text": "", "prompt_token_ids": None}
        choice |= {"logprobs": None, "finish_reason": "abort", "stop_reason": None}
        choice["token_ids"] = [] if self.returns_token_ids else None
        return self._event([choice], {})

    def body(self, answers: Sequence[CompletionOutput]) -> dict[str, Any]:
        """Return the body of an answer that is not streamed."""
        choices = [self._choice(index, answer) for index, answer in enumerate(answers)]
        body: dict[str, Any] = {"id": self.id, "object": "chat.completion" if self.chat else "text_completion"}
        body |= {"created": self.created, "model": self.model, "choices": choices}
        body["usage"] = _usage(sum(map(len, self.prompts)), sum(len(answer.token_ids) for answer in answers))
        if self.chat and self.returns_token_ids:
            body["prompt_token_ids"] = self.prompts[0]
        return body

    def _choice(self, index: int, answer: CompletionOutput) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": index}
        prompt = self.prompt_of(index)
        if self.chat:
            choice["message"] = {"role": "assistant", "content": answer.text}
        else:
            choice["text"] = self._echo(prompt) + self._answer(answer.text)
        scored = None
        if (scorer := self._scorer(prompt)) is not None:
            echoed = prompt if self.echo and not self.chat else ()
            tokens = [scorer.score(token, of_prompt=True) for token in echoed]
            tokens += [scorer.score(token) for token in answer.token_ids if not self.echo_only]
            scored = self._scored(tokens, 0)
        choice |= {"logprobs": scored, "finish_reason": answer.finish_reason, "stop_reason": answer.stop_reason}
        if self.returns_token_ids:
            choice["token_ids"] = answer.token_ids
            if not self.chat:
                choice["prompt_token_ids"] = prompt
        return choice

    def _echo(self, prompt: Sequence[int]) -> str:
        """Return the echoed text. vLLM sends ids or text, never both; a chat's echo (its last turn) is not emulated."""
        return model.decode(prompt) if self.echo and not self.chat and not self.returns_token_ids else ""

    def _answer(self, text: str) -> str:
        return "" if self.echo_only else text

    def _scorer(self, prompt: Sequence[int]) -> Scorer | None:
        if self.logprobs is None:
            return None
        return Scorer(0 if self.echo and not self.chat else len(prompt), self.logprobs)

    def _scored(self, tokens: Sequence[ScoredToken], offset: int) -> dict[str, Any]:
        if self.chat:
            return chat_logprobs(tokens, self.logprobs or 0)
        return completion_logprobs(tokens, offset)

    def _event(self, choices: list[dict[str, Any]], extra: dict[str, Any]) -> bytes:
        chunk = {
            "id": self.id,
            "object": "chat.completion.chunk" if self.chat else "text_completion",
            "created": self.created,
            "model": self.model,
            "choices": choices,
            **extra,
        }
        return b"data: %b\n\n" % orjson.dumps(chunk)


def _usage(prompt: int, generated: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "total_tokens": prompt + generated, "completion_tokens": generated}
