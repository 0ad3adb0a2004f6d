"""Writes the events of `/v1/responses` and `/v1/messages` as vLLM 0.32 does, and the plug-in's events between them.

Only answers of text are emulated, one item or block: no tools, no reasoning. As in vLLM every answer has random ids,
and an engine that terminates sends the final events for half an answer.
"""

from __future__ import annotations

import hashlib
import itertools
import secrets
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from local.fake_engine.answers import BadRequest, CompletionOutput, Step
from local.fake_engine.faults import Chunk, ErrorPayloads

RESPONSES = "/v1/responses"
MESSAGES = "/v1/messages"


def to_chat_body(path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Convert a request to the body of a chat. Raises BadRequest."""
    if path == MESSAGES:
        fields = ("messages", "max_tokens", "temperature", "vllm_xargs")
        return {name: body[name] for name in fields if name in body} | {"stop": body.get("stop_sequences") or []}
    question = body.get("input")
    if isinstance(question, str):
        question = [{"role": "user", "content": question}]
    if not isinstance(question, list):
        raise BadRequest("input must be a text or a list of items.", "input")
    kept = ("temperature", "seed", "stop", "ignore_eos", "vllm_xargs")
    made = {name: body[name] for name in kept if name in body}
    return {**made, "messages": question, "max_tokens": body.get("max_output_tokens")}


@dataclass
class EventFormatter:
    """Formats one answer of these routes; has the interface of `chunks.OpenAiFormatter`.

    path: the route; id: of the answer; exposes_token_ids: send the plug-in's events.
    """

    path: str
    id: str
    created: int
    model: str
    prompts: tuple[tuple[int, ...], ...]
    exposes_token_ids: bool
    item_id: str = field(default_factory=lambda: f"msg_{secrets.token_hex(8)}")
    text: str = ""
    tokens: int = 0
    finish_reason: str = ""
    next_sequence_number: int = 0

    n = 1
    choice_count = 1

    def role_chunk(self, index: int) -> Chunk:
        """Return what precedes the first token."""
        if self.path == MESSAGES:
            return Chunk(_sse("message_start", message=self._message("", None)))
        opening = self._response("in_progress")
        return Chunk(b"".join(self._event(name, response=opening) for name in ("created", "in_progress")))

    def choice_chunks(self, index: int, steps: Iterator[Step], at_once: int = 0) -> Iterator[Chunk]:
        """Yield a chunk for each step. at_once: the number of first steps that share the next one's chunk."""
        while together := tuple(itertools.islice(steps, 1 if self.tokens else at_once + 1)):
            data = self._plugin_events(together)
            if not self.text:
                data += self._open_part() if any(step.text for step in together) else b""
            self.tokens += len(together)
            self.finish_reason = together[-1].finish_reason or ""
            if text := "".join(step.text for step in together):
                self.text += text
                data += self._text_delta(text)
            yield Chunk(data, tokens=1)

    def _plugin_events(self, together: Sequence[Step]) -> bytes:
        if not self.exposes_token_ids:
            return b""
        prompt, finish = self.prompts[0], together[-1].finish_reason
        digest = hashlib.sha256(struct.pack(f"<{len(prompt)}I", *prompt)).hexdigest()
        told = b"" if self.tokens else _plugin_event("synkti-prompt", digest)
        told += _plugin_event("synkti-ids", [step.token for step in together])
        return told + (_plugin_event("synkti-finish", finish) if finish else b"")

    def _open_part(self) -> bytes:
        if self.path == MESSAGES:
            return _sse("content_block_start", index=0, content_block={"type": "text", "text": ""})
        item = self._item("in_progress", [])
        part = {"type": "output_text", "text": "", "annotations": []}
        return self._event("output_item.added", output_index=0, item=item) + self._event(
            "content_part.added", output_index=0, content_index=0, item_id=self.item_id, part=part
        )

    def _text_delta(self, text: str) -> bytes:
        if self.path == MESSAGES:
            return _sse("content_block_delta", index=0, delta={"type": "text_delta", "text": text})
        return self._event(
            "output_text.delta", item_id=self.item_id, output_index=0, content_index=0, delta=text, logprobs=[]
        )

    def stream_end(self, generated: int) -> bytes:
        """Return what follows the last token."""
        if self.path == MESSAGES:
            stop = _sse("content_block_stop", index=0) if self.text else b""
            done = {"stop_reason": _stop_reason(self.finish_reason), "stop_sequence": None}
            return stop + _sse("message_delta", delta=done, usage=self._usage()) + _sse("message_stop")
        part = {"type": "output_text", "text": self.text, "annotations": []}
        item = self._item("completed", [part])
        at = {"output_index": 0, "content_index": 0, "item_id": self.item_id}
        closed = self._event("output_text.done", **at, text=self.text, logprobs=[])
        closed += self._event("content_part.done", **at, part=part)
        closed += self._event("output_item.done", output_index=0, item=item)
        status = "incomplete" if self.finish_reason == "length" else "completed"
        return closed + self._event("completed", response=self._response(status, [item]))

    def truncated_end(self) -> bytes:
        """Return the end of a stream that SIGTERM interrupts."""
        return self.error_payloads().error

    def error_payloads(self) -> ErrorPayloads:
        """Return the last events of this answer, where the engine fails."""
        message = {"message": "EngineCore encountered an issue.", "type": "InternalServerError", "code": 500}
        error = b"event: error\ndata: %b\n\n" % orjson.dumps({"type": "error", "error": message})
        told = _plugin_event("synkti-finish", "abort") if self.exposes_token_ids else b""
        return ErrorPayloads(error, told + EventFormatter(**{**vars(self), "finish_reason": "abort"}).stream_end(0))

    def body(self, answers: Sequence[CompletionOutput]) -> dict[str, Any]:
        """Return the body of an answer that is not streamed."""
        answer = answers[0]
        self.text, self.tokens, self.finish_reason = answer.text, len(answer.token_ids), answer.finish_reason
        if self.path == MESSAGES:
            return self._message(self.text, _stop_reason(self.finish_reason))
        part = {"type": "output_text", "text": self.text, "annotations": []}
        status = "incomplete" if self.finish_reason == "length" else "completed"
        return self._response(status, [self._item("completed", [part])])

    def _response(self, status: str, output: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
        usage = self._usage() | {"total_tokens": len(self.prompts[0]) + self.tokens}
        usage |= {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
        return {
            "id": self.id, "object": "response", "created_at": self.created, "status": status, "model": self.model,
            "output": list(output), "usage": usage if output else None, "tools": [], "tool_choice": "auto",
            "parallel_tool_calls": True,
        }  # fmt: skip

    def _item(self, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self.item_id, "type": "message", "role": "assistant", "status": status, "content": content}

    def _message(self, text: str, stop_reason: str | None) -> dict[str, Any]:
        content = [{"type": "text", "text": text}] if text else []
        return {
            "id": self.id, "type": "message", "role": "assistant", "model": self.model, "content": content,
            "stop_reason": stop_reason, "stop_sequence": None, "usage": self._usage(),
        }  # fmt: skip

    def _usage(self) -> dict[str, Any]:
        return {"input_tokens": len(self.prompts[0]), "output_tokens": self.tokens}

    def _event(self, name: str, **fields: Any) -> bytes:
        self.next_sequence_number += 1
        return _sse(f"response.{name}", **fields, sequence_number=self.next_sequence_number - 1)


def event_formatter(
    path: str, model: str, created: int, prompt: Sequence[int], *, exposes_token_ids: bool
) -> EventFormatter:
    """Return the formatter of one answer."""
    name = "resp_" if path == RESPONSES else "chatcmpl-"
    return EventFormatter(path, name + secrets.token_hex(8), created, model, (tuple(prompt),), exposes_token_ids)


def _stop_reason(reason: str) -> str | None:
    return {"stop": "end_turn", "length": "max_tokens"}.get(reason)


def _sse(name: str, **fields: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), orjson.dumps({"type": name, **fields}))


def _plugin_event(name: str, value: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), orjson.dumps(value))
