"""Apply all rules for clients' requests: fields, bounds, grammars, messages, media, control tokens, the cache's salt.

An engine receives a request only as it comes out of here. A request that breaks a rule is answered with an error that
names the field, the limit and the setting, and reaches no engine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from node_agent.contract.errors import RequestRejected
from node_agent.core.policy.bounds import RequestBounds, check_counts, check_prompt
from node_agent.core.policy.cache_salt import CacheSalt, SaltMode
from node_agent.core.policy.control_tokens import NO_TOKENS, ControlTokenRule, ControlTokens
from node_agent.core.policy.fields import TAKES_SALT, FieldRules
from node_agent.core.policy.form import form_boundary, read_form, write_form
from node_agent.core.policy.grammars import check_constraint, check_format, check_tools
from node_agent.core.policy.media import MediaRules
from node_agent.core.policy.messages import MessageRules

TOKENIZER_ROUTES = frozenset({"/tokenize", "/detokenize", "/v1/messages/count_tokens"})
"""Routes that only run the tokenizer, on the CPU of the engine's one API server; their bound is one of bytes."""


@dataclass(frozen=True)
class PolicySettings:
    """What clients may send. Each field is SYNKTI_<FIELD>, where its docstring does not say otherwise."""

    allowed_routes: tuple[str, ...] = ()
    """Routes of vLLM, with commas between them, that are not reachable otherwise: /tokenize, /v1/embeddings and others
    (`contract/client_requests`). The routes for operators (LoRA adapters, sleep) cannot be allowed."""

    allowed_fields: tuple[str, ...] = ()
    """Fields that reach into the engine, with commas between them, such as priority, cache_salt, or
    chat_template_kwargs.enable_thinking for one member of an object."""

    allowed_media_domains: tuple[str, ...] = ()
    """Domains, with commas between them, from which engines fetch media for clients, over https; none by default."""

    max_data_url_bytes: int = 0
    """Of one image, audio or video in a request itself, as base64; 0: none is accepted."""

    cache_salt: SaltMode = SaltMode.SHARED
    """per-key: requests of different keys share no prefix cache; shared: all of them do."""

    bounds: RequestBounds = field(default_factory=RequestBounds)
    """SYNKTI_MAX_CHOICES and others: the bounds of one request."""


_Check = Callable[[Any, str, RequestBounds], None]


def _check_output(value: Any, param: str, bounds: RequestBounds) -> None:
    """Check `text` or `output_config`, which hold a format. Raises RequestRejected as `check_format`."""
    if isinstance(value, dict):
        check_format(value.get("format"), f"{param}.format", bounds)


_GRAMMARS: dict[str, _Check] = {
    "structured_outputs": check_constraint,
    "response_format": check_format,
    "text": _check_output,
    "output_config": _check_output,
    "tools": check_tools,
}
_CONTENT = frozenset(
    {"messages", "input", "system", "inputs", "data_1", "data_2", "queries", "documents", "items", "text_1", "text_2",
     "query"}
)  # fmt: skip
"""Fields that may hold messages, or parts of them."""

_URL_LISTS = frozenset({"images", "audio", "videos"})
_SERVER_TOOLS = ("mcp", "code_interpreter", "web_search")


class RequestPolicy:
    """The rules for the requests of clients.

    settings: what the operator allows.
    tokens: the model's control tokens.
    secret: returns that of the cluster's current key, for the salts of callers.
    """

    def __init__(
        self,
        settings: PolicySettings | None = None,
        tokens: ControlTokens = NO_TOKENS,
        secret: Callable[[], bytes] = lambda: b"",
    ) -> None:
        self.settings = settings or PolicySettings()
        self._bounds = self.settings.bounds
        self._fields = FieldRules(self.settings.allowed_fields)
        self._media = MediaRules(self.settings.allowed_media_domains, self.settings.max_data_url_bytes)
        self._messages = MessageRules(self._fields, self._media)
        self._control_tokens = ControlTokenRule(tokens)
        self._salt = CacheSalt(secret) if self.settings.cache_salt is SaltMode.PER_KEY else None

    def apply(self, path: str, value: Any, size: int, max_model_len: int | None, key_id: str = "") -> Any:
        """Return the body that an engine may receive: without unknown fields, with the salt of the caller's cache.

        Raises RequestRejected (400, 413) where it breaks a rule.

        path: of the route, one with a JSON body.
        value: the JSON. Unknown names in its messages are removed in place.
        size: bytes of the body as received.
        max_model_len: the model's context in tokens, None where unknown.
        key_id: of the caller's key.
        """
        if not isinstance(value, dict):
            return value  # no route's body: an engine refuses it before it reads anything
        body = self._fields.apply(path, value)
        check_counts(path, body, self._bounds)
        media = self._check_contents(body)
        if path not in TOKENIZER_ROUTES:
            check_prompt(body, size, media, max_model_len, self._bounds)
        if self._control_tokens.is_needed:
            self._control_tokens.check(body)
        return body if self._salt is None or path not in TAKES_SALT else self._salted(body, key_id, self._salt)

    def apply_form(self, path: str, body: bytes, content_type: bytes) -> bytes:
        """Return the form that an engine may receive: b"" for a body that is none, which an engine refuses.

        Args:
            path: of an audio route.
            body: as received.
            content_type: of the request.

        Returns:
            The form without unknown fields, and with the boundary that the content type has.

        Raises:
            RequestRejected: (400) it breaks a rule, or names a field twice.
        """
        boundary = form_boundary(content_type)
        if boundary is None:
            return b""
        fields = read_form(body, boundary)
        texts: dict[str, Any] = {}
        for each in fields:
            if each.name in texts and not each.name.endswith("[]"):
                raise RequestRejected(400, "invalid_form", f"The form has {each.name} twice.", each.name)
            texts[each.name] = each.content.decode("utf-8", "replace") if each.filename is None else ""
        kept = self._fields.apply(path, texts)
        check_counts(path, kept, self._bounds)
        return write_form([each for each in fields if each.name in kept], boundary)

    def _check_contents(self, body: dict[str, Any]) -> int:
        """Check what is inside of fields; return the characters of media. Raises RequestRejected."""
        media = 0
        for name, value in body.items():
            if name in _CONTENT:
                if not isinstance(value, str):
                    media += self._messages.check(value, name, self._check_tools)
            elif (check := _GRAMMARS.get(name)) is not None:
                if value is not None:
                    check(value, name, self._bounds)
                if name == "tools":
                    self._check_server_tools(value)
            elif name in _URL_LISTS and isinstance(value, list):
                media += sum(map(partial(self._media.check_url, param=name), value))
        return media

    def _check_tools(self, tools: Any, param: str) -> None:
        check_tools(tools, param, self._bounds)

    def _check_server_tools(self, tools: Any) -> None:
        """Check that no tool is one that the engine's server calls itself, unless that is allowed."""
        for tool in tools if isinstance(tools, list) else ():
            kind = tool.get("type") if isinstance(tool, dict) else None
            for name in _SERVER_TOOLS:
                if isinstance(kind, str) and kind.startswith(name):
                    self._fields.check_guarded(f"tools.{name}", "tools")

    def _salted(self, body: dict[str, Any], key_id: str, salt: CacheSalt) -> dict[str, Any]:
        own = body.get("cache_salt")
        if own is not None and not isinstance(own, str):
            raise RequestRejected(400, "invalid_request", "cache_salt is a text.", "cache_salt")
        return {**body, "cache_salt": salt.of(key_id, own or "")}
