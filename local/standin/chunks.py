"""The stand-in's JSON: bodies and chunks as vLLM 0.32 writes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from local.standin import model
from local.standin.answers import Answer, Step

_LOGPROB = -0.125
DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True)
class Form:
    """What a request wants its answer to look like. id: of the response; created: unix seconds."""

    chat: bool
    id: str
    created: int
    model: str
    prompt: tuple[int, ...]
    wants_ids: bool
    logprobs: bool
    wants_usage: bool
    running_usage: bool

    def role_chunk(self, index: int) -> bytes:
        choice = {
            "index": index,
            "delta": {"role": "assistant", "content": ""},
            "logprobs": None,
            "finish_reason": None,
        }
        extra = {"prompt_token_ids": self.prompt, "prompt_text": None} if self.wants_ids else {}
        return self._event([choice], extra)

    def step_chunk(self, index: int, step: Step, count: int) -> bytes:
        """count: which token it is, from 1."""
        logprobs = self._logprobs([step.token]) if self.logprobs else None
        choice: dict[str, Any] = {"index": index}
        choice |= {"delta": {"content": step.text}} if self.chat else {"text": step.text}
        choice |= {"logprobs": logprobs, "finish_reason": step.finish_reason}
        if not self.chat or step.finish_reason is not None:
            choice["stop_reason"] = step.stop_reason
        if self.wants_ids:
            if not self.chat:
                choice["prompt_token_ids"] = self.prompt if count == 1 else None
            choice["token_ids"] = [step.token]
        extra = {"usage": self._usage(count)} if self.running_usage else {}
        return self._event([choice], extra)

    def usage_chunk(self, generated: int) -> bytes:
        return self._event([], {"usage": self._usage(generated)})

    def error_chunk(self, message: str) -> bytes:
        body = {"error": {"message": message, "type": "InternalServerError", "param": None, "code": 500}}
        return b"data: %b\n\n" % orjson.dumps(body)

    def whole(self, answers: Sequence[Answer], echo: bool) -> dict[str, Any]:
        """The body of an answer that is not streamed."""
        choices = [self._choice(index, answer, echo) for index, answer in enumerate(answers)]
        body: dict[str, Any] = {"id": self.id, "object": "chat.completion" if self.chat else "text_completion"}
        body |= {"created": self.created, "model": self.model, "choices": choices}
        body["usage"] = self._usage(sum(len(answer.ids) for answer in answers))
        if self.chat and self.wants_ids:
            body["prompt_token_ids"] = self.prompt
        return body

    def _choice(self, index: int, answer: Answer, echo: bool) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": index}
        if self.chat:
            choice["message"] = {"role": "assistant", "content": answer.text}
        else:
            choice["text"] = (model.decode(self.prompt) if echo else "") + answer.text
        choice |= {"logprobs": self._logprobs(answer.ids) if self.logprobs else None}
        choice |= {"finish_reason": answer.finish_reason, "stop_reason": None}
        if self.wants_ids:
            choice["token_ids"] = answer.ids
            if not self.chat:
                choice["prompt_token_ids"] = self.prompt
        return choice

    def _usage(self, generated: int) -> dict[str, int]:
        prompt = len(self.prompt)
        return {"prompt_tokens": prompt, "total_tokens": prompt + generated, "completion_tokens": generated}

    def _logprobs(self, ids: Sequence[int]) -> dict[str, Any]:
        tokens = [model.piece(token).decode(errors="replace") for token in ids]
        if self.chat:
            return {"content": [{"token": t, "logprob": _LOGPROB, "bytes": None, "top_logprobs": []} for t in tokens]}
        each = [_LOGPROB for _ in tokens]
        return {"text_offset": [0 for _ in tokens], "token_logprobs": each, "tokens": tokens, "top_logprobs": None}

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
