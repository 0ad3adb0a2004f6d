"""Provide a pure engine for property tests: vLLM's streaming rules over a text and its tokens, without sockets.

Tokens are the UTF-8 bytes of the text in small groups, so that characters need several tokens. It follows vLLM's rules:
a text is sent only when its characters are whole or the limit is reached, `max(len(stop)) - 1` characters are held
back, and a prompt that ends inside a character makes the first text contain the whole prompt. Logprobs are a function
of the id, and several choices are the same answer, interleaved. The engine has the plug-in: resumed after ids, it sends
them all with the first new one, or one by one; with forced ids it sends the same as without, since its answer depends
on nothing. For an echo it sends the prompt's text or its ids, but never both, and its logprobs in any case; each choice
of a beam search is one chunk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

PROMPT = (1, 2, 3)
FIRST_ID = 100
PROMPT_TEXT = "a prompt, "
"""The text of the prompt's ids."""

_COMPLETION_TOKENS = 16  # where it has no limit of its own


@dataclass(frozen=True)
class Step:
    """One token of an answer to `prompt`. offset: the text offset in its logprobs."""

    prompt: list[int]
    token: int
    text: str
    reason: str | None
    offset: int


@dataclass(frozen=True)
class ScriptedModel:
    """A model that always generates `pieces`, one after another; id FIRST_ID + i stands for pieces[i]."""

    pieces: tuple[bytes, ...]

    @property
    def text(self) -> str:
        return b"".join(self.pieces).decode()

    def chunks(self, body: dict[str, Any], chat: bool) -> list[bytes]:
        """Return the SSE events of an answer to `body`, [DONE] included."""
        choices = range(body.get("n") or 1)
        events: list[bytes] = []
        if chat:
            role = {"role": "assistant", "content": ""}
            events = [_chunk({"index": i, "delta": role, "finish_reason": None}, list(PROMPT)) for i in choices]
            echoed = body["messages"][-1]["content"] if body.get("echo") else ""
            events += [
                _chunk({"index": i, "delta": {"content": echoed}, "finish_reason": None}) for i in choices if echoed
            ]
        first = True
        for steps in _merged_steps(list(self._steps(body, chat)), body):
            for index in choices:
                events.append(_chunk(_choice(chat, index, steps, body, first)))
            first = False
        return [*events, b"data: [DONE]\n\n"]

    def _steps(self, body: dict[str, Any], chat: bool) -> Iterator[Step]:
        prompt = list(PROMPT) if chat or isinstance(body["prompt"], str) else list(body["prompt"])
        done = len(prompt) - len(PROMPT)
        assert prompt == [*PROMPT, *(FIRST_ID + i for i in range(done))], "the prompt is not what was generated"
        assert not (done and body.get("echo")), "the prompt that is echoed is not the client's"
        stop = body.get("stop") or []
        held_back = 0 if body.get("include_stop_str_in_output") else max(map(len, stop), default=1) - 1
        limit = body.get("max_tokens")
        if limit is None:
            limit = len(self.pieces) + 1 if chat else _COMPLETION_TOKENS
        limit = max(1, limit)  # one is generated where only the echo is sent
        raw, text, sent, offset = self._trap(done), "", 0, 0
        for count, index in enumerate(range(done, len(self.pieces) + 1), start=1):
            is_eos = index == len(self.pieces)
            raw += b"" if is_eos else self.pieces[index]
            whole = raw.decode(errors="ignore")
            if whole.encode() == raw:
                text, raw = text + whole, b""
            found = min((at for s in stop if (at := text.find(s)) >= 0), default=None)
            reason = "stop" if is_eos or found is not None else "length" if count == limit else None
            if found is not None:
                text = text[:found]
            elif reason == "length":
                text += raw.decode(errors="replace")
            upto = len(text) if reason else max(sent, len(text) - held_back)
            yield Step(prompt, FIRST_ID + index, text[sent:upto], reason, offset)
            offset += len(token_text(FIRST_ID + index))
            sent = upto
            if reason:
                return

    def _trap(self, done: int) -> bytes:
        before = b"".join(self.pieces[:done])
        is_whole = before.decode(errors="ignore").encode() == before
        return b"" if is_whole else b"<the whole prompt>" + before


def _merged_steps(steps: list[Step], body: dict[str, Any]) -> Iterator[Sequence[Step]]:
    """Yield the steps of each event."""
    extra = body.get("vllm_xargs") or {}
    resumed = extra.get("synkti_resume_ids", [])
    assert [step.token for step in steps[: len(resumed)]] == resumed, "ids of another answer"
    assert len(resumed) < len(steps), "an answer that is over was resumed"
    if body.get("use_beam_search"):
        yield steps
    elif resumed and not extra.get("synkti_apart"):
        yield steps[: len(resumed) + 1]
        yield from ([step] for step in steps[len(resumed) + 1 :])
    else:
        yield from ([step] for step in steps)


def _chunk(choice: dict[str, Any], prompt: list[int] | None = None) -> bytes:
    chunk: dict[str, Any] = {"id": "e", "object": "o", "created": 1, "model": "m", "choices": [choice]}
    if prompt is not None:
        chunk["prompt_token_ids"] = prompt
    return b"data: %b\n\n" % orjson.dumps(chunk)


def _choice(chat: bool, index: int, steps: Sequence[Step], body: dict[str, Any], first: bool) -> dict[str, Any]:
    text = "".join(step.text for step in steps)
    wants_ids, echoed = body.get("return_token_ids"), first and not chat and bool(body.get("echo"))
    is_only_echo = echoed and body.get("max_tokens") == 0
    if is_only_echo:
        text = ""
    if echoed and not wants_ids:
        text = PROMPT_TEXT + text
    choice: dict[str, Any] = {"index": index, **({"delta": {"content": text}} if chat else {"text": text})}
    choice |= {"finish_reason": steps[-1].reason}
    if wants_ids:
        choice["token_ids"] = [step.token for step in steps]
    if not chat and first and (wants_ids or echoed):
        choice["prompt_token_ids"] = steps[0].prompt
    if body.get("logprobs") not in (None, False):
        prompt = list(_prompt_steps()) if body.get("echo") and not chat else []
        base = sum(len(token_text(step.token)) for step in prompt)
        own = [] if is_only_echo else [replace(step, offset=base + step.offset) for step in steps]
        scored = [_logprobs(chat, step, body) for step in [*(prompt if first else ()), *own]]
        choice["logprobs"] = {name: [value for one in scored for value in one[name]] for name in scored[0]}
    return choice


def _prompt_steps() -> Iterator[Step]:
    """Yield the prompt's tokens, for their logprobs."""
    offset = 0
    for token in PROMPT:
        yield Step([], token, "", None, offset)
        offset += len(token_text(token))


def _logprobs(chat: bool, step: Step, body: dict[str, Any]) -> dict[str, Any]:
    token, value = token_text(step.token), -step.token / 8
    top = {token: value, token + "?": value - 1}
    if chat:
        requested = list(top.items())[: body.get("top_logprobs") or 0]
        entries = [{"token": t, "logprob": v, "bytes": list(t.encode())} for t, v in [(token, value), *requested]]
        return {"content": [{**entries[0], "top_logprobs": entries[1:]}]}
    top = dict(list(top.items())[: body["logprobs"] + 1])
    return {"text_offset": [step.offset], "token_logprobs": [value], "tokens": [token], "top_logprobs": [top]}


def token_text(token: int) -> str:
    """Return a token's text in logprobs: lengths differ, since offsets depend on them."""
    return "t" * (1 + token % 3)
