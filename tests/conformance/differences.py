"""Documented differences between a node's answers and vLLM 0.32's, as in the table of docs/compatibility.md.

A difference covers the parts of an answer that it names (`compare.differences`), and no other.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Difference:
    """A difference. parts: what may differ; node: status of the node, None for vLLM's own; reason: as in the docs."""

    parts: frozenset[str]
    node: int | None
    reason: str


def _of(parts: str, node: int | None, reason: str) -> Difference:
    return Difference(frozenset(parts.split()), node, reason)


DIFFERENCES = {
    "own-error": _of("body content-type", 400, "what no engine could read is refused at the node, in OpenAI's form"),
    "model-not-found": _of("body", 404, "the node knows all models of the fleet, and lists them"),
    "unknown-route": _of("body", 404, "the error is in OpenAI's form and says where the API is"),
    "method-not-allowed": _of("body", 405, "the error is in OpenAI's form and names the methods"),
    "too-many-answers": _of("status content-type body", 400, "prompts times n are bounded as a product"),
    "tokenize-bound": _of("status body", 413, "tokenizing is bounded by the context length"),
    "field-not-allowed": _of(
        "status content-type body", 400, "the field reaches into the engine, and needs the operator's permission"
    ),
    "media-not-allowed": _of(
        "status content-type body", 400, "nothing is fetched or decoded for clients without the operator's permission"
    ),
    "limit-exceeded": _of("status content-type body", 400, "every count has a bound, and the error names it"),
    "prompt-bound": _of("status body", 413, "a prompt far beyond the context is not tokenized"),
    "large-number": _of("body", None, "a whole number beyond 64 bits is read as a number with a point"),
    "cors": _of("", None, "no page of another origin may call unless `allowed_origins` says so"),
}
