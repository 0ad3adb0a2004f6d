"""Decide which top-level fields of a request an engine receives, by the request models of vLLM 0.32.

A field of a request is one of three:

    passed      vLLM's route has it, and it only shapes this request's own answer
    guarded     it reaches into the engine (`contract/client_requests`): refused, unless the operator allows it
    unknown     vLLM's route has no such field; vLLM ignores it, and the engine does not receive it

A field that a later vLLM adds is unknown here, and so has no effect until someone has looked at it. A guarded field
with null or false requests nothing, and is left out like an unknown one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from node_agent.contract.client_requests import GUARDED_FIELDS, WITH_MEMBERS
from node_agent.contract.errors import RequestRejected

FIELD_SETTING = "SYNKTI_ALLOWED_FIELDS"


def _names(*texts: str) -> frozenset[str]:
    return frozenset(" ".join(texts).split())


_SAMPLING = """temperature top_p top_k min_p presence_penalty frequency_penalty repetition_penalty seed n stop
    include_stop_str_in_output logit_bias logprob_token_ids length_penalty"""
_TOKENS = """stop_token_ids ignore_eos min_tokens skip_special_tokens spaces_between_special_tokens allowed_token_ids
    bad_words prompt_logprobs truncate_prompt_tokens truncation_side thinking_token_budget"""
_RETURNED = "return_token_ids return_tokens_as_token_ids"
_IGNORED = "return_token_offsets mm_payload return_mm_kwargs"
"""Fields of other routes, which vLLM validates here, and ignores."""

_STREAMED = "stream stream_options stream_interval"
_FORMAT = "response_format structured_outputs"
_CHAT = "messages add_generation_prompt continue_final_message"
_POOLED = "model user truncate_prompt_tokens truncation_side padding use_activation normalize"
_ENCODED = "encoding_format embed_dtype endianness dimensions"
_PAIRED = "max_tokens_per_query max_tokens_per_doc instruction"
_SPOKEN = """model file language prompt response_format temperature stream stream_include_usage
    stream_continuous_usage_stats top_p top_k min_p seed n frequency_penalty presence_penalty repetition_penalty
    length_penalty max_completion_tokens include_stop_str_in_output to_language hotwords"""

_SCORED = _names(_POOLED, _PAIRED, "data_1 data_2 queries documents items text_1 text_2")
_RANKED = _names(_POOLED, _PAIRED, "query documents top_n")

PASSED: Mapping[str, frozenset[str]] = {
    "/v1/chat/completions": _names(
        _CHAT, _SAMPLING, _TOKENS, _RETURNED, _IGNORED, _STREAMED, _FORMAT,
        """model max_tokens max_completion_tokens logprobs top_logprobs tools tool_choice parallel_tool_calls
        reasoning_effort include_reasoning user echo add_special_tokens return_prompt_text""",
    ),
    "/v1/chat/completions/batch": _names(
        _CHAT, _SAMPLING, _RETURNED, _FORMAT,
        """model max_tokens max_completion_tokens logprobs top_logprobs tool_choice include_reasoning user echo
        early_stopping best_of guided_decoding_backend""",
    ),
    "/v1/completions": _names(
        _SAMPLING, _TOKENS, _RETURNED, _IGNORED, _STREAMED, _FORMAT,
        "model prompt echo logprobs max_tokens suffix user add_special_tokens",
    ),
    "/v1/responses": _names(
        """background include input instructions max_output_tokens max_tool_calls metadata model logit_bias
        parallel_tool_calls previous_response_id prompt reasoning include_reasoning service_tier store stream
        temperature text tool_choice tools top_logprobs top_p top_k min_p truncation user skip_special_tokens
        include_stop_str_in_output presence_penalty frequency_penalty prompt_cache_key mm_payload return_mm_kwargs
        enable_response_messages structured_outputs repetition_penalty seed stop stop_token_ids ignore_eos""",
    ),
    "/v1/messages": _names(
        """model messages max_tokens metadata output_config thinking stop_sequences stream system temperature
        tool_choice tools top_k top_p mm_payload return_mm_kwargs""",
    ),
    "/v1/messages/count_tokens": _names("model messages output_config system thinking tool_choice tools"),
    "/tokenize": _names(_CHAT, "model prompt add_special_tokens return_token_strs tools"),
    "/detokenize": _names("model tokens"),
    "/v1/embeddings": _names(_POOLED, _ENCODED, _CHAT, "input add_special_tokens"),
    "/v2/embed": _names("model input_type texts images inputs output_dimension embedding_types truncate max_tokens"),
    "/pooling": _names(_POOLED, _ENCODED, _CHAT, "input add_special_tokens data task"),
    "/classify": _names(_POOLED, _CHAT, "input add_special_tokens"),
    "/score": _SCORED,
    "/v1/score": _SCORED,
    "/rerank": _RANKED,
    "/v1/rerank": _RANKED,
    "/v2/rerank": _RANKED,
    "/generative_scoring": _names("model query items label_token_ids apply_softmax item_first add_special_tokens"),
    "/v1/systemone": _names("model state questions instructions images audio videos"),
    "/v1/audio/transcriptions": _names(_SPOKEN, "timestamp_granularities[]"),
    "/v1/audio/translations": _names(_SPOKEN),
}  # fmt: skip
"""The fields that each route passes. `documents` of a score is its text, and guarded elsewhere."""

TAKES_SALT = frozenset(PASSED) - {
    "/v1/messages/count_tokens", "/tokenize", "/detokenize", "/v2/embed", "/v1/audio/transcriptions",
    "/v1/audio/translations",
}  # fmt: skip
"""Routes with the field `cache_salt`."""


class FieldRules:
    """The rules for the fields of requests.

    allowed: names of guarded fields, and of members of guarded objects, that the operator allows.
    """

    def __init__(self, allowed: Collection[str] = ()) -> None:
        self.allowed = frozenset(allowed)
        whole = self.allowed & GUARDED_FIELDS.keys()
        self._passed = {path: passed | whole for path, passed in PASSED.items()}
        self._members: dict[str, set[str]] = {}
        for name in self.allowed - whole:
            field, _, member = name.partition(".")
            self._members.setdefault(field, set()).add(member)

    def apply(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Return the body with the fields that an engine receives; the same object where nothing is left out.

        Raises RequestRejected (400) for a guarded field that is not allowed; its `param` is the field's name.

        path: of the route.
        body: the request's, which stays as it is.
        """
        passed = self._passed[path]
        if body.keys() <= passed:
            return body
        allowed = {name for name in body.keys() - passed if self._is_allowed(name, body[name])}
        return {name: value for name, value in body.items() if name in passed or name in allowed}

    def _is_allowed(self, name: str, value: Any) -> bool:
        """Return whether members of a guarded object are allowed; False for what is left out."""
        if name not in GUARDED_FIELDS or value is None or value is False:
            return False
        members = self._members.get(name)
        if members is None or not isinstance(value, dict):
            raise not_allowed(name)
        for member in value.keys() - members:
            raise not_allowed(name, f"{name}.{member}")
        return True

    def check_guarded(self, name: str, param: str) -> None:
        """Check a guarded field in another place than the top level. Raises RequestRejected unless it is allowed."""
        if name not in self.allowed:
            raise not_allowed(name, param)


def not_allowed(name: str, param: str | None = None) -> RequestRejected:
    """Return the error for a guarded field. param: where it is, for the error's `param`; its name by default."""
    shown = param or name
    setting = f"{name}.<member>" if name in WITH_MEMBERS and shown != name else name
    message = (
        f"{shown[:200]} is not allowed: it {GUARDED_FIELDS[name]}. Leave it out, or ask the fleet's operator to allow "
        f"it ({FIELD_SETTING}={setting})."
    )
    return RequestRejected(400, "field_not_allowed", message, shown[:200])
