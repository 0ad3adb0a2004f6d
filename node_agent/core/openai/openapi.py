"""Build the OpenAPI document of the client API, from its routes.

It lists each route that this node has, with its methods, the scope that a key needs, and its errors. The bodies of
inference routes are OpenAI's and Anthropic's, as vLLM implements them; the document has the fields that decide how
Synkti treats a request, and leaves the rest open.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from node_agent.contract.client_requests import OPTIONAL_ROUTES
from node_agent.core.openai import routes
from node_agent.core.openai.generation_request import ApiRoute

OPENAPI_VERSION, API_VERSION = "3.1.0", "1"

_SUMMARIES = {
    "/healthz": "Whether the process runs.",
    "/readyz": "Whether this node accepts requests: 503 where it does not.",
    "/health": "As vLLM's: 200 or 503 without a body.",
    "/ping": "As vLLM's: 200 or 503 without a body.",
    "/load": "As vLLM's: the requests at this node's engine.",
    "/openapi.json": "This document.",
    "/v1/models": "The models of the whole fleet.",
    "/v1/synkti/nodes": "The fleet, as this node sees it.",
    routes.SNAPSHOT: "What the page at /ui shows.",
    routes.SNAPSHOT_EVENTS: "The same anew each second, as server-sent events.",
    "/version": "The version of the engine.",
    "/v1/messages/count_tokens": "How many tokens a message has.",
    ApiRoute.CHAT.value: "A chat, streamed or not. It survives the loss of its engine.",
    ApiRoute.COMPLETION.value: "A plain completion, streamed or not. It survives the loss of its engine.",
    ApiRoute.RESPONSES.value: "OpenAI's responses, streamed or not. A stream survives the loss of its engine.",
    ApiRoute.MESSAGES.value: "Anthropic's messages, streamed or not. A stream survives the loss of its engine.",
    "/v1/streams/{stream}": "Resume a stream whose entry was lost: everything after Last-Event-ID, then the rest.",
    "/v1/responses/{response}": "A stored response.",
    "/v1/responses/{response}/cancel": "Cancel a stored response.",
}
_OPTIONAL = "A route of vLLM, which this fleet's operator has allowed."

_ERRORS = {
    "400": "The request is invalid, or has something that the operator has not allowed: `param` names the field.",
    "401": "No key, or an unknown, expired or revoked one.",
    "403": "The key lacks the scope, or the page its origin.",
    "404": "No such route, model or stream.",
    "405": "The route has other methods; see Allow.",
    "413": "The body or the prompt is too long.",
    "415": "The body is no JSON.",
    "422": "The request ends engines, and is refused for some minutes.",
    "429": "A limit of the key, or the fleet is full; see Retry-After.",
    "500": "Two engines failed at this request.",
    "503": "No node can answer now; see Retry-After.",
}
_STATUSES_OF_ALL = ("400", "401", "403", "404", "405", "429", "503")
_STATUSES_OF_INFERENCE = ("413", "415", "422", "500")

_NO_SUCH_ROUTE = {"type": "object", "required": ["detail"]}
"""An engine that does not serve a route answers so."""

_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "integer", "null"]},
            },
        }
    },
}
_STREAMED = {"stream": {"type": "boolean", "default": False}, "max_tokens": {"type": "integer", "minimum": 1}}
_TURNS = {"type": "array", "minItems": 1, "items": {"type": "object", "required": ["role"]}}
_PROMPT = {"type": ["string", "array"]}
_BODIES: dict[str, dict[str, Any]] = {
    ApiRoute.CHAT.value: {"required": ["messages"], "properties": {"messages": _TURNS, **_STREAMED}},
    ApiRoute.COMPLETION.value: {"required": ["prompt"], "properties": {"prompt": _PROMPT, **_STREAMED}},
    ApiRoute.RESPONSES.value: {"required": ["input"], "properties": {"input": _PROMPT, "stream": {"type": "boolean"}}},
    ApiRoute.MESSAGES.value: {
        "required": ["messages", "max_tokens"],
        "properties": {"messages": _TURNS, **_STREAMED},
    },
}


def document(allowed: Collection[str] = (), *, keys_required: bool = True) -> dict[str, Any]:
    """Return the document, as JSON's types.

    allowed: the optional routes that the operator allows.
    """
    made: dict[str, Any] = {
        "openapi": OPENAPI_VERSION,
        "info": {"title": "Synkti", "version": API_VERSION, "description": "OpenAI-compatible inference."},
        "paths": {path: _path(path, methods) for path, methods in routes.documented_routes(allowed)},
        "components": {"schemas": {"Error": {"anyOf": [_ERROR, _NO_SUCH_ROUTE]}}},
    }
    if keys_required:
        made["components"]["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
        }
    else:
        for operations in made["paths"].values():
            for operation in operations.values():
                operation.pop("security", None)
    return made


def _path(path: str, methods: Collection[str]) -> dict[str, Any]:
    return {method.lower(): _operation(path, method) for method in methods}


def _operation(path: str, method: str) -> dict[str, Any]:
    scope = routes.required_scope(path)
    is_open = scope is None
    made: dict[str, Any] = {
        "operationId": f"{method.lower()}_{path.strip('/').replace('/', '_').replace('{', '').replace('}', '')}",
        "summary": _OPTIONAL if path in OPTIONAL_ROUTES else _SUMMARIES[path],
        "responses": {"200": {"description": "The answer."}},
    }
    names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    if names:
        text = {"type": "string"}
        made["parameters"] = [{"name": name, "in": "path", "required": True, "schema": text} for name in names]
    if (body := _BODIES.get(path)) is not None:
        schema = {"type": "object", **body, "properties": {"model": {"type": "string"}, **body["properties"]}}
        made["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    if is_open:
        made["responses"]["503"] = {"description": "The node does not accept requests."}
    else:
        made["description"] = f"Needs a key with the scope `{scope}`."
        made["security"] = [{"bearer": []}, {"x-api-key": []}]
        more = _STATUSES_OF_INFERENCE if method == "POST" else ()
        made["responses"] |= {status: _error(status) for status in sorted((*_STATUSES_OF_ALL, *more))}
    return made


def _error(status: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {"description": _ERRORS[status], "content": content}
