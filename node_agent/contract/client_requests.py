"""The routes and request fields that an operator has to allow by name, and the names of media domains.

A deployment's settings and a node's are validated with the same names, so that an unknown one fails at the synthesis.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

OPTIONAL_ROUTES = frozenset(
    {
        "/tokenize", "/detokenize", "/v1/chat/completions/batch",
        "/v1/embeddings", "/v2/embed", "/pooling", "/classify",
        "/score", "/v1/score", "/rerank", "/v1/rerank", "/v2/rerank",
        "/generative_scoring", "/v1/systemone",
        "/v1/audio/transcriptions", "/v1/audio/translations",
    }
)  # fmt: skip
"""Routes of vLLM that are not reachable unless `allowed_routes` names them. Chats need none of them."""

GUARDED_FIELDS: Mapping[str, str] = {
    "audio_embeds": "loads a serialized tensor into the engine",
    "cache_salt": "chooses with whom the prefix cache is shared",
    "chat_template": "is a program that the engine's API server runs",
    "chat_template_kwargs": "sets variables of the chat template, which is a program",
    "data_parallel_rank": "chooses an engine's worker",
    "documents": "sets a variable of the chat template, which is a program",
    "ec_transfer_params": "makes the engine connect to another one",
    "image_embeds": "loads a serialized tensor into the engine",
    "kv_transfer_params": "makes the engine connect to another one",
    "media_io_kwargs": "sets how much memory and time the decoding of media takes",
    "mm_processor_kwargs": "sets how much memory and time the preparation of media takes",
    "previous_input_messages": "replaces the conversation by messages in the model's own format",
    "priority": "goes ahead of the requests of others",
    "prompt_embeds": "loads a serialized tensor into the engine",
    "repetition_detection": "sets how much work each token costs",
    "request_id": "may equal the id of another client's request",
    "routed_experts_prompt_start": "reads the engine's routing of experts",
    "session_id": "may equal the id of another client's session",
    "tools.code_interpreter": "makes the engine's server run code",
    "tools.mcp": "makes the engine's server call another server",
    "tools.web_search": "makes the engine's server search the web",
    "use_beam_search": "generates every answer several times",
    "uuid": "names an item in the cache of media that all clients share",
    "video_embeds": "loads a serialized tensor into the engine",
    "vllm_xargs": "passes arguments to the engine's plug-ins",
    "watermarking": "turns the operator's watermark off",
}
"""Fields that reach into the engine, and what each does there. They are refused unless `allowed_fields` names them."""

WITH_MEMBERS = frozenset({"chat_template_kwargs", "media_io_kwargs", "mm_processor_kwargs", "vllm_xargs"})
"""Objects of which single members can be allowed, such as chat_template_kwargs.enable_thinking."""

_MEMBER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}", re.ASCII)
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_MAX_DOMAIN = 253


def is_field_name(text: str) -> bool:
    """Return whether a text names a guarded field, or a member of one."""
    if text in GUARDED_FIELDS:
        return True
    field, _, member = text.partition(".")
    return field in WITH_MEMBERS and _MEMBER.fullmatch(member) is not None


def is_media_domain(text: str) -> bool:
    """Return whether a text is a DNS name in lower case: no address in any notation, no port, no wildcard.

    The last label of an address in decimal, octal or hexadecimal begins with a digit; that of a public name does not.
    """
    labels = text.split(".")
    return (
        len(text) <= _MAX_DOMAIN
        and len(labels) > 1
        and all(map(_LABEL.fullmatch, labels))
        and labels[-1][0].isalpha()
        and labels[-1] not in ("localhost", "internal", "local")
    )
