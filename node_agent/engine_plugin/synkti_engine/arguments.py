"""Define and validate the arguments of a continued request (`vllm_xargs`). Imports nothing of vLLM.

    synkti_resume_ids   ids that the answer has already; the engine starts behind them
    synkti_apart        1: one output per id, given ids included; else the given ids come with the first new one, and a
                        busy engine merges others
    synkti_forced_ids   ids that the answer begins with, generated once more, one decode step each
    synkti_tell_ids     1: a stream carries the ids behind its chunks in own events, one by one (`token_id_emitter`)

The agent strips all of these from what clients send (`node_agent/core/openai/generation_request`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

RESUME_IDS = "synkti_resume_ids"
PER_ID = "synkti_apart"
FORCED_IDS = "synkti_forced_ids"
EMIT_IDS = "synkti_tell_ids"


class BadArguments(ValueError):
    """The arguments are invalid and must not reach the engine; the message says why."""


def per_token(extra: Mapping[str, Any] | None) -> bool:
    """Return whether each id gets an output of its own."""
    return bool(extra and (extra.get(PER_ID) or extra.get(EMIT_IDS)))


def ids_in(extra: Mapping[str, Any] | None, name: str) -> list[int]:
    """Return the ids of an argument, [] where it is absent. Raises BadArguments where it is no list of ids."""
    value = (extra or {}).get(name)
    if value is None:
        return []
    if not isinstance(value, list) or not all(type(token) is int and token >= 0 for token in value):
        raise BadArguments(f"{name} must be a list of token ids")
    return value


def check(ids: Sequence[int], *, vocabulary: int, max_tokens: int, room: int, choices: int) -> None:
    """Validate the ids of an argument.

    vocabulary: the number of ids, since one beyond them would end the engine.
    max_tokens: of the answer.
    room: tokens that the context has left behind the prompt.
    choices: of the request.

    Raises:
        BadArguments: an id is not in the vocabulary, there are more ids than fit, or several choices.
    """
    unknown = [token for token in ids if token >= vocabulary]
    if unknown:
        raise BadArguments(f"id {unknown[0]} is not in the vocabulary, which has {vocabulary}")
    if len(ids) > max_tokens:
        raise BadArguments(f"{len(ids)} ids are more than max_tokens={max_tokens}")
    if len(ids) > room:
        raise BadArguments(f"{len(ids)} ids are more than the context's {room}")
    if choices != 1:
        raise BadArguments(f"one choice is continued at a time, and the request has n={choices}")


def begun(ids: Sequence[int], ends: Collection[int], most: int) -> tuple[list[int], int | None]:
    """Return the ids that an engine starts behind, and the id that must come next, None for any.

    An engine starts only behind an answer that is not over: one that ended would be generated on and on. An answer that
    ends with an end, or has as many ids as it may have (most), gets its last id once more, whatever would be sampled,
    and ends there for the same reason as the first time. An end in the middle is none that this request could have had:
    what is behind it is left out, and the end is sampled again.
    """
    place = next((place for place, token in enumerate(ids) if token in ends), len(ids))
    is_over = place == len(ids) - 1 or (place == len(ids) and len(ids) >= most)
    if ids and is_over:
        return list(ids[:-1]), ids[-1]
    return list(ids[:place]), None
