"""Convert logprobs across a continuation: the client's form, no repeated ids, continuous offsets.

A reprompt is a plain completion, whatever the client requested; so a chat's logprobs are converted from a completion's.
A completion cannot distinguish two candidates with the same text: its candidates are a map by their text.
"""

from __future__ import annotations

from typing import Any

from node_agent.core.openai.generation_request import ApiRoute, GenerationRequest

Logprobs = dict[str, Any]

_LIST_FIELDS = ("text_offset", "token_logprobs", "tokens", "top_logprobs")


def completion_logprobs(generation: GenerationRequest) -> int | None:
    """Return the `logprobs` field for /v1/completions that yields what the client requested; None for none."""
    if not generation.wants_logprobs:
        return None
    return int(generation.body.get("top_logprobs" if generation.route is ApiRoute.CHAT else "logprobs") or 0)


def from_completion(logprobs: Logprobs, skip: int, base_offset: int, generation: GenerationRequest) -> Logprobs:
    """Return a completion's logprobs in the client's form, without those of the first `skip` ids.

    base_offset: added to each text offset, in characters.
    """
    cut = {name: (logprobs.get(name) or [])[skip:] for name in _LIST_FIELDS}
    if generation.route is ApiRoute.CHAT:
        return {"content": [_content(generation, cut, at) for at in range(len(cut["tokens"]))]}
    cut["text_offset"] = [base_offset + offset for offset in cut["text_offset"]]
    return cut


def skip_first(logprobs: Logprobs, skip: int, base_offset: int) -> Logprobs:
    """Return the logprobs of a repeated answer, in the client's form already, without those of the first `skip` ids.

    base_offset: where the answer starts, in characters: after its prompt where that was echoed.
    """
    cut = {name: values[skip:] if isinstance(values, list) else values for name, values in logprobs.items()}
    if base_offset and cut.get("text_offset"):
        cut["text_offset"] = [base_offset + offset for offset in cut["text_offset"]]
    return cut


def _content(generation: GenerationRequest, cut: Logprobs, at: int) -> dict[str, Any]:
    candidates = cut["top_logprobs"][at] if at < len(cut["top_logprobs"]) else None
    requested = int(generation.body.get("top_logprobs") or 0)
    pairs = list((candidates or {}).items())
    top = [_candidate(token, logprob) for token, logprob in (pairs if requested == -1 else pairs[:requested])]
    return {**_candidate(cut["tokens"][at], cut["token_logprobs"][at]), "top_logprobs": top}


def _candidate(token: str, logprob: float) -> dict[str, Any]:
    return {"token": token, "logprob": logprob, "bytes": list(token.encode(errors="replace"))}


class TextOffsets:
    """The offset of each id of one choice in the text, as vLLM counts it: by the tokens' own texts.

    The prompt's ids come first where its logprobs are sent.
    """

    def __init__(self) -> None:
        self._offsets = [0]

    def add(self, logprobs: Logprobs) -> None:
        """Add logprobs of a completion as the client received them."""
        for offset, token in zip(logprobs.get("text_offset") or (), logprobs.get("tokens") or (), strict=False):
            self._offsets[-1] = offset
            self._offsets.append(offset + len(token))

    def at(self, position: int) -> int:
        """Return the offset of the id at `position`."""
        return self._offsets[min(position, len(self._offsets) - 1)]
