"""A pure engine for property tests: vLLM's streaming rules over a text and its tokens, without sockets.

Tokens are the UTF-8 bytes of the text in small groups, so that characters take several tokens. It keeps vLLM's rules:
a text goes out only when its characters are whole, `max(len(stop)) - 1` characters are held back, and a prompt that
ends inside a character makes the first text carry the whole prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

PROMPT = (1, 2, 3)
FIRST_ID = 100


@dataclass(frozen=True)
class ScriptedModel:
    """Always generates `pieces`, one after another; id FIRST_ID + i stands for pieces[i]."""

    pieces: tuple[bytes, ...]

    @property
    def text(self) -> str:
        return b"".join(self.pieces).decode()

    def chunks(self, body: dict[str, Any], chat: bool) -> list[bytes]:
        """The SSE events of an answer to `body`, [DONE] included."""
        prompt = list(PROMPT) if chat else list(body["prompt"])
        done = len(prompt) - len(PROMPT)
        assert prompt == [*PROMPT, *(FIRST_ID + i for i in range(done))], "the prompt is not what was generated"
        stop = body.get("stop") or []
        held_back = 0 if body.get("include_stop_str_in_output") else max(map(len, stop), default=1) - 1
        limit = body["max_tokens"] if body.get("max_tokens") is not None else len(self.pieces) + 1
        events = [self._chunk(chat, prompt, None, "", None)] if chat else []
        raw, text, sent = self._trap(done), "", 0
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
            upto = len(text) if reason else max(sent, len(text) - held_back)
            first = prompt if not events else None
            events.append(self._chunk(chat, first, FIRST_ID + index, text[sent:upto], reason))
            sent = upto
            if reason:
                break
        return [*events, b"data: [DONE]\n\n"]

    def _trap(self, done: int) -> bytes:
        before = b"".join(self.pieces[:done])
        is_whole = before.decode(errors="ignore").encode() == before
        return b"" if is_whole else b"<the whole prompt>" + before

    def _chunk(self, chat: bool, prompt: list[int] | None, token: int | None, text: str, reason: str | None) -> bytes:
        choice: dict[str, Any] = {"index": 0, "finish_reason": reason}
        chunk: dict[str, Any] = {"id": "e", "object": "o", "created": 1, "model": "m", "choices": [choice]}
        if chat:
            choice["delta"] = {"role": "assistant", "content": ""} if token is None else {"content": text}
            if prompt is not None:
                chunk["prompt_token_ids"] = prompt
        else:
            choice |= {"text": text, "prompt_token_ids": prompt}
        if token is not None:
            choice["token_ids"] = [token]
        return b"data: %b\n\n" % orjson.dumps(chunk)
