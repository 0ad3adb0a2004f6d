"""Kinds of requests, and the required continuation of each: the rows of the table in docs/continuation.md.

The tests send each row to a real vLLM, cut its stream, and continue it with the state machine of the entry.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from node_agent.core.continuation.method import ContinuationMethod
from node_agent.core.openai.generation_request import ApiRoute

EXACT, CONTINUOUS = "exact", "continuous"
_UNTRAINED = "Which river has no name, and why?"
"""A prompt unlike the training data, so that the model is certain of no token."""

_SEEDED = {"seed": 11, "temperature": 1.3}
_SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 24},
        "age": {"type": "integer", "minimum": 1, "maximum": 999},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 8}, "minItems": 2, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
_JSON_SCHEMA = {"type": "json_schema", "json_schema": {"name": "person", "schema": _SCHEMA}}
_WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}, "days": {"type": "integer", "maximum": 99}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
_CLOCK = {
    "type": "function",
    "function": {
        "name": "clock",
        "parameters": {
            "type": "object",
            "properties": {"zone": {"type": "string", "maxLength": 12}},
            "required": ["zone"],
            "additionalProperties": False,
        },
    },
}
_TOOLS = {"tools": [_WEATHER, _CLOCK]}
_CALL = r'<tool_call>\n\{"name": "clock", "arguments": \{"zone": "[a-z]{4,9}"\}\}\n</tool_call>\n'
_AS_IDS = {"prompt": [43, 86, 223, 89, 387, 272, 223, 70, 67, 84, 77, 223, 168, 252, 104, 372]}
"""`It was a dark 雨 night`."""


@dataclass(frozen=True)
class Row:
    """One row of the table. what: its description; way: the required method; outcome: EXACT or CONTINUOUS.

    thinks: True for the engine that parses reasoning; rewinds: True if a reprompt is exact too, although it is not the
    required method; needs: features of the whole answer, for which seeds are tried, since a tiny model cannot be
    instructed to reason; forbids, stops: with bad words, or a stop string, from the unrestricted answer.
    """

    name: str
    what: str
    fields: Mapping[str, Any]
    way: ContinuationMethod = ContinuationMethod.RESUME
    outcome: str = EXACT
    kind: ApiRoute = ApiRoute.CHAT
    prompt: str = "Tell me a long story."
    thinks: bool = False
    rewinds: bool = False
    needs: frozenset[str] = field(default_factory=frozenset)
    forbids: bool = False
    stops: bool = False


GREEDY = {"temperature": 0}
ROWS = (
    Row("greedy", "chat, greedy", GREEDY, ContinuationMethod.REPROMPT),
    Row(
        "greedy-plain",
        "completion, greedy",
        {**GREEDY, "ignore_eos": True},
        ContinuationMethod.REPROMPT,
        kind=ApiRoute.COMPLETION,
    ),
    Row(
        "sampled",
        "sampled without a seed",
        {
            "temperature": 1.0,
            "ignore_eos": True,
            "return_token_ids": False,
            "stream_options": {"include_usage": True},
        },
        ContinuationMethod.REPROMPT,
        CONTINUOUS,
    ),
    Row(
        "sampled-ids",
        "sampled without a seed, and the client receives the ids",
        {"temperature": 1.0, "ignore_eos": True},
        ContinuationMethod.RESUME,
        CONTINUOUS,
    ),
    Row(
        "stop",
        "stop strings",
        {**GREEDY, "return_token_ids": False},
        ContinuationMethod.REPROMPT,
        stops=True,
    ),
    Row("logit-bias", "`logit_bias`", {**GREEDY, "logit_bias": {"300": 4, "12": -100}}, ContinuationMethod.REPROMPT),
    Row("repetition", "`repetition_penalty`", {**GREEDY, "repetition_penalty": 1.3}, ContinuationMethod.REPROMPT),
    Row("logprobs", "`logprobs`, greedy", {**GREEDY, "logprobs": True, "top_logprobs": 2}),
    Row("seed", "`seed`, chat", _SEEDED),
    Row("seed-plain", "`seed`, completion", _SEEDED, kind=ApiRoute.COMPLETION),
    Row("seed-logprobs", "`seed` with `logprobs`", {**_SEEDED, "logprobs": True, "top_logprobs": 3}),
    Row(
        "seed-plain-logprobs",
        "`seed` with `logprobs`, completion",
        {**_SEEDED, "logprobs": 3},
        kind=ApiRoute.COMPLETION,
    ),
    Row(
        "frequency", "`frequency_penalty`", {**GREEDY, "frequency_penalty": 2.0, "ignore_eos": True}, prompt=_UNTRAINED
    ),
    Row("presence", "`presence_penalty`", {**GREEDY, "presence_penalty": 2.0, "ignore_eos": True}, prompt=_UNTRAINED),
    Row("bad-words", "`bad_words`", GREEDY, forbids=True),
    Row("json-object", "`response_format` json_object", {**_SEEDED, "response_format": {"type": "json_object"}}),
    Row("json-schema", "`response_format` json_schema", {**GREEDY, "response_format": _JSON_SCHEMA}),
    Row("regex", "`structured_outputs` regex", {**GREEDY, "structured_outputs": {"regex": "([a-z]{4} [0-9]{2};){9}"}}),
    Row(
        "choice",
        "`structured_outputs` choice",
        {**GREEDY, "structured_outputs": {"choice": ["the night train and the river", "the node and the stream"]}},
    ),
    Row(
        "grammar",
        "`structured_outputs` grammar",
        {**GREEDY, "structured_outputs": {"grammar": 'root ::= item{12}\nitem ::= ("red" | "green" | "blue") ", "'}},
    ),
    Row(
        "all-at-once",
        "schema, both penalties, `seed` and `logprobs` at once",
        {
            **_SEEDED,
            "response_format": _JSON_SCHEMA,
            "frequency_penalty": 0.6,
            "presence_penalty": 0.4,
            "logprobs": True,
            "top_logprobs": 1,
        },
    ),
    Row("n", "`n` = 3 with a `seed`", {**_SEEDED, "n": 3}),
    Row("endless", "no `max_tokens`", {**GREEDY, "max_tokens": None}, rewinds=True),
    Row(
        "echo",
        "`echo` of a prompt of ids",
        {**GREEDY, **_AS_IDS, "echo": True, "ignore_eos": True, "return_token_ids": False},
        ContinuationMethod.REPROMPT,
        kind=ApiRoute.COMPLETION,
    ),
    Row(
        "echo-logprobs",
        "`echo` with `logprobs`, of a prompt of ids",
        {**GREEDY, **_AS_IDS, "echo": True, "logprobs": 2, "ignore_eos": True, "return_token_ids": False},
        rewinds=True,
        kind=ApiRoute.COMPLETION,
    ),
    Row(
        "echo-client-ids",
        "`echo` with `logprobs` and ids",
        {**GREEDY, "echo": True, "logprobs": 0, "ignore_eos": True},
        rewinds=True,
        kind=ApiRoute.COMPLETION,
    ),
    Row(
        "echo-several",
        "`echo` with `logprobs` and a `seed`, two prompts of ids",
        {
            **_SEEDED,
            "prompt": [_AS_IDS["prompt"], [*_AS_IDS["prompt"][2:], 252]],
            "echo": True,
            "logprobs": 1,
            "max_tokens": 40,
            "return_token_ids": False,
        },
        kind=ApiRoute.COMPLETION,
    ),
    Row(
        "echo-n",
        "`echo` with a `seed`, of a prompt of ids, `n` = 3",
        {**_SEEDED, **_AS_IDS, "n": 3, "echo": True, "max_tokens": 40, "return_token_ids": False},
        kind=ApiRoute.COMPLETION,
    ),
    Row(
        "echo-chat",
        "`echo` of a chat's last message",
        {
            **GREEDY,
            "messages": [{"role": "user", "content": "Tell me"}, {"role": "assistant", "content": "Once 雨"}],
            "echo": True,
            "add_generation_prompt": False,
            "continue_final_message": True,
            "ignore_eos": True,
        },
        ContinuationMethod.REPROMPT,
    ),
    Row(
        "processor",
        "`vllm_xargs` for a logits processor of one's own",
        {**GREEDY, "vllm_xargs": {"fresh": 3}, "ignore_eos": True},
        prompt=_UNTRAINED,
    ),
    Row(
        "tool-named",
        "tools, `tool_choice` names one",
        {**_SEEDED, **_TOOLS, "tool_choice": {"type": "function", "function": {"name": "weather"}}},
    ),
    Row("tool-required", "tools, `tool_choice` required", {**_SEEDED, **_TOOLS, "tool_choice": "required"}),
    Row(
        "tool-parallel",
        "tools, several calls (hermes, `tool_choice` auto)",
        {
            **_SEEDED,
            **_TOOLS,
            "tool_choice": "auto",
            "structured_outputs": {"regex": f"({_CALL}){{2}}"},
            "max_tokens": 160,
            "skip_special_tokens": False,
        },
        needs=frozenset({"calls"}),
    ),
    Row(
        "reasoning",
        "reasoning (deepseek_r1), cut inside and after it",
        {"temperature": 0.8, "presence_penalty": 2.0, "frequency_penalty": 2.0, "skip_special_tokens": False},
        thinks=True,
        needs=frozenset({"reasoning", "content", "start-tag"}),
    ),
    Row(
        "reasoning-schema",
        "reasoning, then a json_schema",
        {"temperature": 1.0, "presence_penalty": 2.0, "response_format": _JSON_SCHEMA, "skip_special_tokens": False},
        thinks=True,
        needs=frozenset({"reasoning", "content"}),
    ),
    Row(
        "reasoning-hidden",
        "reasoning that the client does not want (`include_reasoning: false`)",
        {
            "temperature": 1.0,
            "presence_penalty": 2.0,
            "include_reasoning": False,
            "return_token_ids": False,
            "skip_special_tokens": False,
        },
        thinks=True,
        needs=frozenset({"content"}),
    ),
    Row(
        "reasoning-hidden-ids",
        "the same, and the client receives ids and logprobs: of the rest",
        {
            "temperature": 1.0,
            "presence_penalty": 2.0,
            "include_reasoning": False,
            "logprobs": True,
            "top_logprobs": 1,
            "skip_special_tokens": False,
        },
        thinks=True,
        needs=frozenset({"content"}),
    ),
)
