"""Logprobs across a cut: in the form of the client's route, without those of repeated ids, with offsets that go on.

A continuation is a plain completion, whatever the client asked; so a chat's logprobs are made of a completion's. What
a completion cannot say is which of two candidates that read the same is which: its candidates are a map by their text.
"""

from __future__ import annotations

from typing import Any

from node_agent.core.openai.generation_request import ApiRoute, GenerationRequest

Logprobs = dict[str, Any]

_LIST_FIELDS = ("text_offset", "token_logprobs", "tokens", "top_logprobs")


def completion_logprobs(generation: GenerationRequest) -> int | None:
    """The `logprobs` field for /v1/completions that brings what the client asked for; None for none."""
    if not generation.wants_logprobs:
        return None
    return int(generation.body.get("top_logprobs" if generation.route is ApiRoute.CHAT else "logprobs") or 0)


def from_completion(logprobs: Logprobs, skip: int, base_offset: int, generation: GenerationRequest) -> Logprobs:
    """What the client gets of a continuation: without the first `skip` ids, with offsets from the base on."""
    cut = {name: (logprobs.get(name) or [])[skip:] for name in _LIST_FIELDS}
    if generation.route is ApiRoute.CHAT:
        return {"content": [_content(generation, cut, at) for at in range(len(cut["tokens"]))]}
    cut["text_offset"] = [base_offset + offset for offset in cut["text_offset"]]
    return cut


def skip_first(logprobs: Logprobs, skip: int, base_offset: int) -> Logprobs:
    """Logprobs in the client's own form, of an answer told from its beginning, without those of `skip` ids.

    base_offset: where the answer begins, which is behind its prompt where that was echoed.
    """
    cut = {name: values[skip:] if isinstance(values, list) else values for name, values in logprobs.items()}
    if base_offset and cut.get("text_offset"):
        cut["text_offset"] = [base_offset + offset for offset in cut["text_offset"]]
    return cut


def _content(generation: GenerationRequest, cut: Logprobs, at: int) -> dict[str, Any]:
    candidates = cut["top_logprobs"][at] if at < len(cut["top_logprobs"]) else None
    asked = int(generation.body.get("top_logprobs") or 0)
    told = list((candidates or {}).items())
    top = [_candidate(token, logprob) for token, logprob in (told if asked == -1 else told[:asked])]
    return {**_candidate(cut["tokens"][at], cut["token_logprobs"][at]), "top_logprobs": top}


def _candidate(token: str, logprob: float) -> dict[str, Any]:
    return {"token": token, "logprob": logprob, "bytes": list(token.encode(errors="replace"))}


class TextOffsets:
    """Where each id of one choice begins in the text, as vLLM counts it: by the tokens' own texts.

    The prompt's come first where its logprobs are told.
    """

    def __init__(self) -> None:
        self._offsets = [0]

    def add(self, logprobs: Logprobs) -> None:
        """Logprobs of a completion as the client got them."""
        for offset, token in zip(logprobs.get("text_offset") or (), logprobs.get("tokens") or (), strict=False):
            self._offsets[-1] = offset
            self._offsets.append(offset + len(token))

    def at(self, place: int) -> int:
        return self._offsets[min(place, len(self._offsets) - 1)]
