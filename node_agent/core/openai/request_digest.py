"""Compute a digest of a request that is equal for two requests with the same work for an engine.

It does not depend on streaming, the request's ids, the order and white space of the JSON, or white space inside of
texts. It differs for other prompts, models or sampling.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

import orjson

from node_agent.core.openai.request_body import INTERNAL_ARG_PREFIX

DIGEST_BYTES = 16

_IGNORED_FIELDS = frozenset(
    {
        "stream",
        "stream_options",
        "request_id",
        "user",
        "metadata",
        "store",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "return_token_ids",
        "cache_salt",
        "priority",
    }
)
"""Top-level fields that affect how an answer is delivered, accounted or scheduled, but not what is computed."""

_WHITE_SPACE = re.compile(rb"(?:\s|\\[ntrf])+")


def request_digest(body: bytes | Mapping[str, Any]) -> bytes | None:
    """Return the digest of a request's body, as received or as parsed; None for an empty body."""
    if not body:
        return None
    parsed: object = body
    if isinstance(body, bytes):
        try:
            parsed = orjson.loads(body)
        except orjson.JSONDecodeError:
            return _digest(_without_boundary(body))
    if not isinstance(parsed, Mapping):
        return _digest(body if isinstance(body, bytes) else b"")
    kept = {key: value for key, value in parsed.items() if value is not None and key not in _IGNORED_FIELDS}
    if isinstance(extra := kept.get("vllm_xargs"), Mapping):
        kept["vllm_xargs"] = {key: extra[key] for key in extra if not key.startswith(INTERNAL_ARG_PREFIX)}
        if not kept["vllm_xargs"]:
            del kept["vllm_xargs"]
    try:
        return _digest(orjson.dumps(kept, option=orjson.OPT_SORT_KEYS))
    except orjson.JSONEncodeError:  # nested too deep to serialize
        return _digest(body if isinstance(body, bytes) else repr(kept).encode())


def _digest(data: bytes) -> bytes:
    return blake2b(_WHITE_SPACE.sub(b"", data), digest_size=DIGEST_BYTES).digest()


def _without_boundary(body: bytes) -> bytes:
    """Return a form without its random boundary."""
    boundary = body.partition(b"\r\n")[0] if body.startswith(b"--") else b""
    return body.replace(boundary, b"") if boundary else body
