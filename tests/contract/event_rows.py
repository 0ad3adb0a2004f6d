"""The rows of docs/continuation.md about `/v1/responses` and `/v1/messages`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from node_agent.core.openai.generation_request import ApiRoute

PLACE = {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]}
SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}}}
WEATHER = {"type": "function", "name": "weather", "parameters": PLACE}
FOR_CLAUDE = {"name": "weather", "input_schema": PLACE}


@dataclass(frozen=True)
class Row:
    """One row of the table. needs: a text that the raw answer has to contain; thinks: True for the reasoning engine."""

    what: str
    kind: ApiRoute
    fields: dict[str, Any] = field(default_factory=dict)
    needs: str = "delta"
    thinks: bool = False


ROWS = (
    Row("`/v1/responses`, greedy", ApiRoute.RESPONSES),
    Row("`/v1/responses`, `seed`", ApiRoute.RESPONSES, {"seed": 7, "temperature": 1.2}),
    Row(
        "`/v1/responses`, `seed` with logprobs",
        ApiRoute.RESPONSES,
        {"seed": 7, "temperature": 1.2, "include": ["message.output_text.logprobs"], "top_logprobs": 2},
    ),
    Row("`/v1/responses`, both penalties", ApiRoute.RESPONSES, {"frequency_penalty": 1.0, "presence_penalty": 0.7}),
    Row(
        "`/v1/responses`, a json_schema",
        ApiRoute.RESPONSES,
        {"text": {"format": {"type": "json_schema", "name": "person", "schema": SCHEMA}}},
    ),
    Row(
        "`/v1/responses`, tools, `tool_choice` required",
        ApiRoute.RESPONSES,
        {"tools": [WEATHER], "tool_choice": "required"},
        needs="function_call_arguments.delta",
    ),
    Row("`/v1/responses`, stop strings", ApiRoute.RESPONSES, {"stop": ["the river", "night"]}),
    Row("`/v1/messages`, greedy", ApiRoute.MESSAGES),
    Row("`/v1/messages`, stop strings", ApiRoute.MESSAGES, {"stop_sequences": ["the river", "night"]}),
    Row(
        "`/v1/messages`, a json_schema",
        ApiRoute.MESSAGES,
        {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
    ),
    Row(
        "`/v1/messages`, tools, `tool_choice` any",
        ApiRoute.MESSAGES,
        {"tools": [FOR_CLAUDE], "tool_choice": {"type": "any"}},
        needs='"input_json_delta"',
    ),
    Row(
        "`/v1/responses`, reasoning (deepseek_r1)",
        ApiRoute.RESPONSES,
        {"seed": 1, "temperature": 0.9},
        needs="response.reasoning_text.delta",
        thinks=True,
    ),
    Row("`/v1/messages`, thinking (deepseek_r1)", ApiRoute.MESSAGES, needs='"thinking_delta"', thinks=True),
)
