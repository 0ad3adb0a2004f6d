"""Write the client's event for an engine's chunk: passed through, or spliced to what other engines sent before.

Both functions add the chunk to the delivered state (`core/streams/delivered_state`) and raise for a chunk that cannot
follow it: ValueError where it differs from what the client has; TypeError, OverflowError, AttributeError or LookupError
where its fields are not those of the route.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from node_agent.core.continuation.method import ContinuationMethod
from node_agent.core.openai import chunks, logprobs, prompt_echo
from node_agent.core.openai.generation_request import ApiRoute
from node_agent.core.streams.delivered_state import DeliveredState


@dataclass(slots=True)
class EnginePart:
    """What the current engine was requested for; without any argument the whole answer."""

    method: ContinuationMethod | None = None
    """How it continues; None: it answers the whole request."""
    choice: int | None = None
    """The choice that it continues; None: it answers for all choices."""
    segment: range | None = None
    """Positions of its ids; `length` at its end does not end the answer."""
    base_offset: int = 0
    """Where its text starts in the answer, as logprobs count it."""
    prompt_texts: prompt_echo.PromptTextCollector | None = None
    """Set where the request is only for the texts of the prompts."""

    def route(self, client_route: ApiRoute) -> ApiRoute:
        """Return the route that the engine serves for a client's request to `client_route`."""
        return ApiRoute.COMPLETION if self.method is ContinuationMethod.REPROMPT else client_route

    @property
    def repeats_request(self) -> bool:
        """True where the engine received the client's request once more, and generates the answer from its start."""
        return self.method is not None and self.method is not ContinuationMethod.REPROMPT

    def ends_segment(self, reason: str | None, ids: int) -> bool:
        """Return whether a finish_reason is the end of a segment, and not of the answer. ids: of the choice so far."""
        return self.segment is not None and reason == "length" and ids == self.segment.stop


def pass_through(
    delivered: DeliveredState,
    index: int,
    chunk: dict[str, Any],
    choice: dict[str, Any],
    text: str,
    *,
    is_first_engine: bool,
) -> bytes | None:
    """Return the event for a chunk in the client's own form, without fields that it did not request.

    Args:
        delivered: what the client has; the chunk is added to it.
        index: the number of the choice.
        chunk: the engine's chunk, which is changed.
        choice: the only choice in it.
        text: the text in it.
        is_first_engine: no other engine was requested before.

    Returns:
        The event, b"" for a chunk that the client must not see, None for one that only repeats what the client has.

    Raises:
        ValueError: it differs from what the client has.
    """
    generation, ids = delivered.generation, choice.get("token_ids") or ()
    is_last = choice.get("finish_reason") is not None
    if (finished := delivered.histories[index]).finish_reason is not None:
        if is_last and text != finished.text:
            raise ValueError("the repeated choice differs from what was delivered")
        return None
    if prompt_echo.is_chat_echo(generation, choice):
        if index in delivered.echoed_choices:
            return None
        delivered.echoed_choices.add(index)
        text = ""  # the prompt's, not the answer's
    elif not is_first_engine and index in delivered.started_choices and not (ids or text or is_last):
        return None  # the first engine's role chunk was delivered
    extra = delivered.apply_envelope(chunk, is_first_engine=is_first_engine)
    if index not in delivered.started_choices and generation.prepends_prompt:
        choice["text"] = generation.echo(index) + text
        extra["role"] = True
    has_more_than_text = delivered.append(index, choice, ids, text)
    if delivered.is_hidden_reasoning(index, choice) and chunks.hide_reasoning(choice) and not is_last:
        return b""
    if not generation.wants_ids:
        is_echo = generation.route is ApiRoute.COMPLETION and bool(generation.body.get("echo"))
        chunks.strip_ids(chunk, echoes=is_echo)
    if has_more_than_text or not ids:
        extra["chunk"] = chunk  # also a role alone, or an unexpected chunk: recorded as it is
    elif (scored := choice.get("logprobs")) is not None:
        delivered.record_logprobs(index, scored, extra)
    if is_last:
        _record_finish(choice, extra)
    return delivered.emit(orjson.dumps(chunk), index, text, extra)


def splice(delivered: DeliveredState, part: EnginePart, index: int, choice: dict[str, Any], engine_text: str) -> bytes:
    """Return the event for a continuing engine's chunk, in the client's form, without what the client has.

    Args:
        delivered: what the client has; the chunk is added to it.
        part: what the engine was requested for.
        index: the number of the choice.
        choice: the only choice in the chunk, which is changed.
        engine_text: the text in it.

    Returns:
        The event, b"" for a chunk without anything new.
    """
    engine_ids, delta = choice.get("token_ids") or (), choice.get("delta")
    is_last = choice.get("finish_reason") is not None
    ids, text = delivered.histories[index].append(engine_ids, engine_text)
    delta_part = {} if delta is None else delivered.deltas[index].new_part(delta)
    if delivered.is_hidden_reasoning(index, choice):
        chunks.hide_reasoning(choice)
        ids, delta_part = (), {key: delta_part[key] for key in delta_part if key not in chunks.REASONING}
    if is_last and part.repeats_request:
        _check_caught_up(delivered, index)
    if not (text or delta_part or (ids and delivered.generation.exposes_token_ids) or is_last):
        return b""
    extra: dict[str, Any] = {}
    if index not in delivered.started_choices:
        delivered.started_choices.add(index)
        extra["role"] = True
    if (scored := choice.get("logprobs")) is not None:
        cut = _logprobs_after_cut(delivered, part, scored, len(engine_ids) - len(ids))
        delivered.record_logprobs(index, cut, extra)
    if is_last:
        _record_finish(choice, extra)
    event = delivered.writer.build_chunk(delivered.histories[index], index, text, list(ids), extra, delta_part)
    if delta_part:
        extra["chunk"] = orjson.loads(event)
    return delivered.emit(event, index, text, extra)


def _record_finish(choice: Mapping[str, Any], extra: dict[str, Any]) -> None:
    extra |= {"reason": choice["finish_reason"], "stop": choice.get("stop_reason")}


def _check_caught_up(delivered: DeliveredState, index: int) -> None:
    """Raise ValueError where an answer ends before it has repeated all that was delivered."""
    if not (delivered.histories[index].is_caught_up and delivered.deltas[index].is_caught_up):
        raise ValueError("the continuation ends before what was delivered")


def _logprobs_after_cut(
    delivered: DeliveredState, part: EnginePart, scored: dict[str, Any], skip: int
) -> dict[str, Any]:
    """Return a chunk's logprobs without the first `skip` ids, in the client's form."""
    if part.method is ContinuationMethod.REPROMPT:
        return logprobs.from_completion(scored, skip, part.base_offset, delivered.generation)
    return logprobs.skip_first(scored, skip, part.base_offset)
