"""The requests that have harmed inference servers, and what a node answers to each of them.

One table for the unit tests, for the abuse tests on a real fleet, for the tests with a real vLLM, and for the page:
`python -m checks.refused_requests` writes it into docs/security.md.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

MODEL = "tiny"
CHAT, TEXT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses"
_TURN = [{"role": "user", "content": "hello"}]
DEEP = 200


@dataclass(frozen=True)
class RefusedRequest:
    """A request that no engine receives.

    name: unique.
    source: the CVE, or the issue of vLLM.
    shape: what the request has, in Markdown.
    path, body: a POST with JSON, unless `method` or `raw` say otherwise.
    status, code, param: of the answer.
    """

    name: str
    source: str
    shape: str
    path: str
    body: dict[str, Any] = field(default_factory=dict)
    status: int = 400
    code: str = "field_not_allowed"
    param: str | None = None
    method: str = "POST"
    raw: bytes | None = None
    """A whole request, where the path or a header is the point."""

    def to_bytes(self) -> bytes:
        """Return the request for a connection that ends with it."""
        if self.raw is not None:
            return self.raw
        body = json.dumps(self.body).encode()
        head = f"{self.method} {self.path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
        return f"{head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


def chat(**fields: Any) -> dict[str, Any]:
    """Return the body of a chat with these fields."""
    return {"model": MODEL, "messages": _TURN, "max_tokens": 2, **fields}


def text(**fields: Any) -> dict[str, Any]:
    """Return the body of a completion with these fields."""
    return {"model": MODEL, "prompt": "hello", "max_tokens": 2, **fields}


def parts(*content: dict[str, Any]) -> dict[str, Any]:
    """Return the body of a chat with these parts in its message."""
    return chat(messages=[{"role": "user", "content": list(content)}])


def image(url: str) -> dict[str, Any]:
    """Return the body of a chat with an image."""
    return parts({"type": "image_url", "image_url": {"url": url}})


def schema(value: Any) -> dict[str, Any]:
    """Return the body of a chat whose answer has this JSON schema."""
    return chat(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": value}})


def tool(parameters: Any) -> dict[str, Any]:
    """Return the body of a chat with a tool."""
    return chat(tools=[{"type": "function", "function": {"name": "f", "parameters": parameters}}])


def nested(levels: int) -> dict[str, Any]:
    """Return a JSON schema with this many levels."""
    made: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        made = {"type": "array", "items": made}
    return made


def _http(head: str, body: bytes = b"") -> bytes:
    return f"{head}\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


_BODY = json.dumps(chat()).encode()
_ROUTE: dict[str, Any] = {"status": 404, "code": "unknown_route"}
_FIELD: dict[str, Any] = {"status": 400, "code": "field_not_allowed"}
_LIMIT: dict[str, Any] = {"status": 400, "code": "limit_exceeded"}
_MEDIA: dict[str, Any] = {"status": 400, "code": "media_not_allowed"}
_SCHEMA: dict[str, Any] = {"status": 400, "code": "invalid_schema"}

ROUTES = (
    RefusedRequest("invocations", "vllm #58144", "`POST /invocations`", "/invocations", chat(), **_ROUTE),
    RefusedRequest("lora", "LoRA load", "`POST /v1/load_lora_adapter`", "/v1/load_lora_adapter", chat(), **_ROUTE),
    RefusedRequest("sleep", "sleep", "`POST /sleep`", "/sleep", **_ROUTE),
    RefusedRequest("rpc", "collective_rpc", "`POST /collective_rpc`", "/collective_rpc", **_ROUTE),
    RefusedRequest("info", "server_info", "`GET /server_info`", "/server_info", method="GET", **_ROUTE),
    RefusedRequest("tokenize", "vllm #58144", "an optional route, not allowed", "/tokenize", text(), **_ROUTE),
    RefusedRequest("escaped", "CVE-2026-48746", "`/v1%2Fchat/completions`", "/v1%2Fchat/completions", chat(), **_ROUTE),
    RefusedRequest("doubled", "CVE-2026-48746", "`//v1/chat/completions`", "//v1/chat/completions", chat(), **_ROUTE),
    RefusedRequest("dots", "CVE-2026-48746", "`/v1/../sleep`", "/v1/../sleep", chat(), **_ROUTE),
    RefusedRequest(
        "absolute", "CVE-2026-48710", "`POST http://x/sleep`", "/sleep",
        raw=_http("POST http://x/sleep HTTP/1.1\r\nhost: x\r\ncontent-type: application/json", _BODY), **_ROUTE,
    ),
    RefusedRequest(
        "host", "CVE-2026-48746", "`Host: x/v1/models?`", CHAT, status=400, code="invalid_http",
        raw=_http(f"POST {CHAT} HTTP/1.1\r\nhost: x/v1/models?\r\ncontent-type: application/json", _BODY),
    ),
)  # fmt: skip
"""Routes that are none, and spellings that look like another one."""

FIELDS = (
    RefusedRequest("template", "CVE-2025-61620", "`chat_template`", CHAT, chat(chat_template="{{ 1 }}"),
                   param="chat_template", **_FIELD),
    RefusedRequest("template kwargs", "CVE-2025-62426", "`chat_template_kwargs`", CHAT,
                   chat(chat_template_kwargs={"tokenize": True}), param="chat_template_kwargs", **_FIELD),
    RefusedRequest("template kwargs of messages", "CVE-2025-62426", "the same in `/v1/messages`", MESSAGES,
                   chat(chat_template_kwargs={"chat_template": "x"}), param="chat_template_kwargs", **_FIELD),
    RefusedRequest("embeds", "CVE-2025-62164", "`prompt_embeds`", TEXT, text(prompt_embeds="AAAA"),
                   param="prompt_embeds", **_FIELD),
    RefusedRequest("embeds in a part", "CVE-2025-62164", "a part of the type `prompt_embeds`", CHAT,
                   parts({"type": "prompt_embeds", "data": "AAAA"}), param="messages.prompt_embeds", **_FIELD),
    RefusedRequest("image embeds", "CVE-2025-62164", "a part with `image_embeds`", CHAT,
                   parts({"image_embeds": "AAAA"}), param="messages", **_FIELD),
    RefusedRequest("processor", "mm_processor_kwargs", "`mm_processor_kwargs`", CHAT,
                   chat(mm_processor_kwargs={"max_pixels": 10**9}), param="mm_processor_kwargs", **_FIELD),
    RefusedRequest("media io", "media_io_kwargs", "`media_io_kwargs`", CHAT,
                   chat(media_io_kwargs={"video": {"num_frames": -1}}), param="media_io_kwargs", **_FIELD),
    RefusedRequest("salt", "CVE-2025-46570", "`cache_salt` of the client's choice", CHAT, chat(cache_salt="theirs"),
                   param="cache_salt", **_FIELD),
    RefusedRequest("uuid", "CVE-2025-46570", "`uuid` of an image that another client has sent", CHAT,
                   parts({"type": "image_url", "image_url": None, "uuid": "1"}), param="messages.image_url.uuid",
                   **_FIELD),
    RefusedRequest("transfer", "kv_transfer_params", "`kv_transfer_params`", TEXT,
                   text(kv_transfer_params={"remote_host": "169.254.169.254"}), param="kv_transfer_params", **_FIELD),
    RefusedRequest("priority", "priority", "`priority`", CHAT, chat(priority=-9), param="priority", **_FIELD),
    RefusedRequest("beams", "use_beam_search", "`use_beam_search`", TEXT, text(use_beam_search=True, n=100),
                   param="use_beam_search", **_FIELD),
    RefusedRequest("xargs", "vllm_xargs", "`vllm_xargs`", RESPONSES,
                   {"model": MODEL, "input": "hello", "vllm_xargs": {"a": 1}}, param="vllm_xargs", **_FIELD),
    RefusedRequest("server tool", "mcp", "a tool that the engine's server calls", RESPONSES,
                   {"model": MODEL, "input": "hello", "tools": [{"type": "mcp", "server_label": "x"}]},
                   param="tools", **_FIELD),
)  # fmt: skip
"""Fields that reach into the engine."""

_SSRF = (
    ("link-local", "http://169.254.169.254/latest/meta-data"),
    ("loopback", "https://127.0.0.1:8002/v1/models"),
    ("decimal", "https://2852039166/"),
    ("hexadecimal", "https://0xa9fea9fe/"),
    ("octal", "https://0251.0376.0251.0376/"),
    ("mapped", "https://[::ffff:169.254.169.254]/"),
    ("user info", "https://images.example.com@10.0.0.1/"),
    ("backslash", "https://images.example.com\\@10.0.0.1/"),
    ("file", "file:///etc/passwd"),
    ("data", "data:image/png;base64,AAAA"),
)
MEDIA = (
    *(RefusedRequest(f"url: {name}", "CVE-2025-6242", f"an image at `{url}`", CHAT, image(url),
                     param="messages.image_url", **_MEDIA) for name, url in _SSRF),
    RefusedRequest("video", "CVE-2026-22778", "a video at any URL", CHAT,
                   parts({"type": "video_url", "video_url": {"url": "https://x.example/v.mp4"}}),
                   param="messages.video_url", **_MEDIA),
    RefusedRequest("frames", "CVE-2026-34755", "`data:video/jpeg` with many frames", CHAT,
                   parts({"type": "video_url", "video_url": {"url": "data:video/jpeg;base64," + "AAAA," * 1000}}),
                   param="messages.video_url", **_MEDIA),
    RefusedRequest("untyped", "CVE-2026-24779", "an image without `type`", CHAT,
                   parts({"image_url": "http://10.0.0.1/"}), param="messages", **_MEDIA),
    RefusedRequest("anthropic", "vllm #57157", "an image in a tool's result, `/v1/messages`", MESSAGES,
                   parts({"type": "tool_result", "tool_use_id": "1", "content": [
                       {"type": "image", "source": {"type": "url", "url": "http://10.0.0.1/"}}]}),
                   param="messages.image", **_MEDIA),
    RefusedRequest("response", "vllm #57157", "`input_image` in `/v1/responses`", RESPONSES,
                   {"model": MODEL, "input": [{"role": "user", "content": [
                       {"type": "input_image", "image_url": "http://10.0.0.1/"}]}]},
                   param="input.input_image", **_MEDIA),
)  # fmt: skip
"""Media, of which by default none is allowed."""

LIMITS = (
    RefusedRequest("choices", "CVE-2026-34756", "`n` of a million", CHAT, chat(n=1_000_000), param="n", **_LIMIT),
    RefusedRequest("prompts", "CVE-2026-34756", "`n` times prompts", TEXT, text(prompt=["a"] * 600, n=2),
                   param="n", **_LIMIT),
    RefusedRequest("bias", "logit_bias", "`logit_bias` for the whole vocabulary", CHAT,
                   chat(logit_bias={str(n): 1 for n in range(2_000)}), param="logit_bias", **_LIMIT),
    RefusedRequest("stops", "stop", "a `stop` of 100,000 characters", TEXT, text(stop="a" * 100_000),
                   param="stop", **_LIMIT),
    RefusedRequest("vocabulary", "logprobs", "`logprobs` of the whole vocabulary", TEXT, text(logprobs=-1),
                   param="logprobs", **_LIMIT),
    RefusedRequest("prompt", "CVE-2026-34756", "a prompt far beyond the context", TEXT, text(prompt="a b" * 700_000),
                   status=413, code="prompt_too_long"),
)  # fmt: skip
"""Numbers and sizes."""

GRAMMARS = (
    RefusedRequest("schema of no type", "CVE-2025-48942", "a JSON schema with a type that JSON does not have", CHAT,
                   schema({"type": "something"}), param="response_format.json_schema.schema", **_SCHEMA),
    RefusedRequest("open regex", "CVE-2025-48943", "an invalid regular expression", CHAT,
                   chat(structured_outputs={"regex": "([a-z"}), param="structured_outputs.regex", **_SCHEMA),
    RefusedRequest("pattern of a tool", "CVE-2025-48944", "an invalid `pattern` in a tool's parameters", CHAT,
                   tool({"type": "object", "properties": {"a": {"type": "string", "pattern": "*a"}}}),
                   param="tools.parameters", **_SCHEMA),
    RefusedRequest("type of a tool", "CVE-2025-48944", "an invalid `type` in a tool's parameters", CHAT,
                   tool({"type": "object", "properties": {"a": {"type": "something"}}}), param="tools.parameters",
                   **_SCHEMA),
    RefusedRequest("repetitions", "CVE-2025-48943", "`((a{1000}){1000}){1000}`", CHAT,
                   chat(structured_outputs={"regex": "((a{1000}){1000}){1000}"}), param="structured_outputs.regex",
                   **_LIMIT),
    RefusedRequest("depth", "CVE-2025-48942", "a JSON schema of 200 levels", CHAT, schema(nested(DEEP)),
                   param="response_format.json_schema.schema", **_LIMIT),
    RefusedRequest("size", "CVE-2025-48942", "a JSON schema of 200 KB", CHAT,
                   schema({"enum": ["a" * 100] * 2_000}), param="response_format.json_schema.schema", **_LIMIT),
    RefusedRequest("itself", "vllm 500", '`{"$ref": "#"}`', CHAT, schema({"$ref": "#"}),
                   param="response_format.json_schema.schema", **_SCHEMA),
    RefusedRequest("itself of a response", "vllm 500", "the same in `/v1/responses`", RESPONSES,
                   {"model": MODEL, "input": "hello", "text": {"format": {
                       "type": "json_schema", "name": "x", "schema": {"anyOf": [{"$ref": "#"}]}}}},
                   param="text.format.schema", **_SCHEMA),
)  # fmt: skip
"""What an engine would compile."""

CONTROL_TOKEN = RefusedRequest(
    "control token", "CVE-2026-44222", "`<|image_pad|>` in a text, for a model that has it", CHAT,
    chat(messages=[{"role": "user", "content": "<|vision_start|><|image_pad|><|vision_end|>"}]),
    code="control_token", param="messages",
)  # fmt: skip
"""It needs a model with such a token."""

REFUSED: tuple[RefusedRequest, ...] = (*ROUTES, *FIELDS, *MEDIA, *LIMITS, *GRAMMARS)
