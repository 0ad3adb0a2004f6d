"""Provide a pure engine for `/v1/responses` and `/v1/messages`: vLLM's events over a few texts, without sockets.

It reasons first, then answers; each engine has random ids and times of its own. It has the plug-in: it sends its ids,
starts after those that it is given, and sends why it finished. Its answers depend only on its pieces.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from node_agent.core.openai.generation_request import ApiRoute, GenerationRequest, read_generation

FIRST_ID = 100
NamedEvent = tuple[str, dict[str, Any]]


def generation_request(route: ApiRoute, **fields: Any) -> GenerationRequest:
    """Build a streaming request of the route."""
    prompt = (
        {"input": "tell me"} if route is ApiRoute.RESPONSES else {"messages": [{"role": "user", "content": "tell me"}]}
    )
    return read_generation(route, orjson.dumps({"model": "m", "stream": True, **prompt, **fields}))


@dataclass(frozen=True)
class Engine:
    """One engine. number: source of its random ids. batch: tokens that it sends at once, where it may."""

    thoughts: Sequence[str]
    pieces: Sequence[str]
    number: int
    batch: int = 1
    plugged: bool = True
    finish: str = "stop"
    cached: int = 0

    @property
    def ids(self) -> list[int]:
        return list(range(FIRST_ID, FIRST_ID + len(self.thoughts) + len(self.pieces)))

    def answer(self, route: ApiRoute, body: dict[str, Any]) -> list[bytes]:
        """Return the SSE events of its answer to `body`, one by one."""
        extra = body["vllm_xargs"]
        assert extra["synkti_tell_ids"] == 1
        given = extra.get("synkti_resume_ids") or extra.get("synkti_forced_ids") or []
        assert given == self.ids[: len(given)], "it is given ids that it never sent"
        step = 1 if given else self.batch
        is_forced = bool(extra.get("synkti_forced_ids"))
        scored = 0 if is_forced else len(given)  # an engine has no logprobs of ids that it is given
        events = (
            self._responses(step, scored if body.get("include") else None)
            if route is ApiRoute.RESPONSES
            else self._messages(step)
        )
        return list(self._with_plugin_events(events, step))

    def _with_plugin_events(self, events: Iterator[tuple[int, NamedEvent]], step: int) -> Iterator[bytes]:
        """Add the plug-in's events before those that their ids caused."""
        known, total = 0, len(self.ids)
        for upto, (name, data) in events:
            if self.plugged and upto > known:
                if not known:
                    yield _event("synkti-prompt", "digest")
                yield _event("synkti-ids", self.ids[known:upto])
                if upto == total:
                    yield _event("synkti-finish", self.finish)
                known = upto
            yield _event(name, data)

    def _texts(self, step: int) -> Iterator[tuple[int, str, list[str]]]:
        """Yield (ids so far, thinking or text, the added pieces)."""
        thoughts, pieces = list(self.thoughts), list(self.pieces)
        for at in range(0, len(thoughts), step):
            yield min(at + step, len(thoughts)), "thinking", thoughts[at : at + step]
        for at in range(0, len(pieces), step):
            yield len(thoughts) + min(at + step, len(pieces)), "text", pieces[at : at + step]

    def _responses(self, step: int, unscored: int | None) -> Iterator[tuple[int, NamedEvent]]:
        """Yield a response's events. unscored: ids without logprobs; None where no logprobs are requested."""
        number, sent = self.number, 0

        def event(name: str, **fields: Any) -> NamedEvent:
            nonlocal sent
            sent += 1
            return name, {"type": name, **fields, "sequence_number": sent - 1}

        opening = {"id": f"resp_{number}", "created_at": 1000 + number, "status": "in_progress", "output": []}
        yield 0, event("response.created", response=opening)
        yield 0, event("response.in_progress", response=opening)
        items: list[dict[str, Any]] = []
        current, upto = "", 0
        for upto, what, parts in self._texts(step):
            if what != current:
                if current:
                    yield upto, event("response.output_item.done", item=items[-1])
                item = {"id": f"{what}_{number}", "type": what, "content": []}
                yield upto, event("response.output_item.added", item=item, output_index=len(items))
                whole: dict[str, Any] = {"type": "output_text", "text": "", "logprobs": []}
                items.append({**item, "content": [whole]})
                current = what
            scored = [] if unscored is None else _logprobs(parts, upto - len(parts), unscored)
            whole["text"] += "".join(parts)
            whole["logprobs"] += [{**entry, "bytes": list(entry["token"].encode())} for entry in scored]
            name, item_id = f"response.{what}.delta", f"{what}_{number}"
            yield upto, event(name, item_id=item_id, delta="".join(parts), logprobs=scored)
        yield upto, event("response.output_item.done", item=items[-1] if items else None)
        usage = {
            "input_tokens": 30,
            "input_tokens_details": {"cached_tokens": self.cached},
            "output_tokens": len(self.ids),
        }
        ended = {**opening, "status": "completed", "output": items, "usage": usage}
        yield upto, event("response.completed", response=ended)

    def _messages(self, step: int) -> Iterator[tuple[int, NamedEvent]]:
        usage = {"input_tokens": 30 - self.cached, "cache_read_input_tokens": self.cached, "output_tokens": 0}
        yield 0, _typed("message_start", message={"id": f"msg_{self.number}", "content": [], "usage": usage})
        current, index, upto = "", -1, 0
        for upto, what, parts in self._texts(step):
            if what != current:
                if current:
                    yield from ((upto, one) for one in self._closed(current, index))
                current, index = what, index + 1
                yield upto, _typed("content_block_start", index=index, content_block={"type": what, what: ""})
            delta = {"type": f"{what}_delta", what: "".join(parts)}
            yield upto, _typed("content_block_delta", index=index, delta=delta)
        yield from ((upto, one) for one in self._closed(current, index))
        done = {"stop_reason": "end_turn" if self.finish == "stop" else None}
        yield upto, _typed("message_delta", delta=done, usage={**usage, "output_tokens": len(self.ids)})
        yield upto, _typed("message_stop")

    def _closed(self, what: str, index: int) -> Iterator[NamedEvent]:
        if what == "thinking":
            signature = {"type": "signature_delta", "signature": f"signed {self.number}"}
            yield _typed("content_block_delta", index=index, delta=signature)
        yield _typed("content_block_stop", index=index)


def _logprobs(parts: Sequence[str], first: int, unscored: int) -> list[dict[str, Any]]:
    """Return the logprobs of the ids from position `first` on."""
    return [
        {"token": part, "logprob": 0.0 if at < unscored else -1.0 - at, "top_logprobs": []}
        for at, part in enumerate(parts, start=first)
    ]


def _typed(name: str, **fields: Any) -> NamedEvent:
    return name, {"type": name, **fields}


def _event(name: str, data: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), orjson.dumps(data))
