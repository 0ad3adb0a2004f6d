"""Read the key that a request carries: `Authorization: Bearer KEY`, as OpenAI's clients, or `x-api-key: KEY`.

Anthropic's clients send the second. A request has one key: the same one in both headers counts as one. A key in a URL
is refused, since URLs are logged by proxies, balancers, browsers and shells.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NoReturn

from node_agent.contract.errors import RequestRejected
from node_agent.core.access.caller import Caller, Scope
from node_agent.core.access.client_key import KEY_PREFIX, ClientKey, parse_key
from node_agent.core.access.key_ring import KeyRefusal

AUTHORIZATION, API_KEY = b"authorization", b"x-api-key"
INVALID_KEY = "invalid_api_key"
"""OpenAI's code: its clients raise AuthenticationError for it."""

_URL_NAMES = frozenset(
    {"api_key", "api-key", "apikey", "key", "token", "access_token", "x-api-key", "authorization", "bearer"}
)
_PERCENT = re.compile("%([0-9A-Fa-f]{2})")
_HOW = "send `Authorization: Bearer KEY` or `x-api-key: KEY`"
_REFUSALS = {
    KeyRefusal.UNKNOWN: "This API key is not known here; `synkti keys list` has the known ones.",
    KeyRefusal.EXPIRED: "This API key has expired; `synkti keys create` or `rotate` makes a new one.",
    KeyRefusal.REVOKED: "This API key was revoked; `synkti keys create` makes a new one.",
}


def read_key(headers: Mapping[bytes, bytes], target: str) -> ClientKey:
    """Return the key of a request.

    Args:
        headers: by lower-case names; a repeated header has its values with commas between them.
        target: path and query, as received.

    Returns:
        The key, not yet looked up.

    Raises:
        RequestRejected: there is none, or it is malformed (401); it is in the URL, a header is repeated, or there are
            two keys (400).
    """
    _refuse_key_in_url(target)
    bearer, plain = headers.get(AUTHORIZATION), headers.get(API_KEY)
    if not bearer and not plain:
        raise RequestRejected(401, INVALID_KEY, f"This request has no API key: {_HOW}.")
    keys = [_parse(value, name) for value, name in ((bearer, AUTHORIZATION), (plain, API_KEY)) if value]
    if keys[0] != keys[-1]:
        message = "This request has two different API keys, in Authorization and in x-api-key; send one."
        raise RequestRejected(400, "two_api_keys", message)
    return keys[0]


def _refuse_key_in_url(target: str) -> None:
    """Raise RequestRejected (400) where the query has a key: also one of another service, which was meant as one."""
    _, mark, query = target.partition("?")
    if not mark:
        return
    query = _PERCENT.sub(lambda found: chr(int(found[1], 16)), query)
    names = (pair.partition("=")[0].lower() for pair in query.split("&"))
    if KEY_PREFIX in query or not _URL_NAMES.isdisjoint(names):
        message = f"An API key in a URL would be logged on its way, so it is refused: {_HOW}, and revoke this key."
        raise RequestRejected(400, "api_key_in_url", message)


def _parse(value: bytes, name: bytes) -> ClientKey:
    """Parse one header's value. Raises RequestRejected."""
    if b"," in value:
        raise RequestRejected(400, "repeated_api_key", f"This request has {name.decode()} more than once; send one.")
    text = value.strip()
    if name == AUTHORIZATION:
        scheme, _, text = text.partition(b" ")
        if scheme.lower() != b"bearer":
            raise RequestRejected(401, INVALID_KEY, f"Authorization has another scheme than Bearer: {_HOW}.")
        text = text.strip()
    key = parse_key(text)
    if key is None:
        message = f"This is no API key of Synkti: those look like {KEY_PREFIX}<id>-<secret>."
        raise RequestRejected(401, INVALID_KEY, message)
    return key


def reject(why: KeyRefusal) -> NoReturn:
    """Raise RequestRejected (401) for a key that is not accepted."""
    raise RequestRejected(401, INVALID_KEY, _REFUSALS[why])


def check_scope(caller: Caller, scope: Scope) -> None:
    """Check that a caller may use a group of routes. Raises RequestRejected (403)."""
    if scope not in caller.scopes:
        has = ", ".join(each.value for each in Scope if each in caller.scopes)
        message = f"The API key {caller.name} ({caller.key_id}) has not the scope {scope.value}; it has: {has}."
        raise RequestRejected(403, "insufficient_scope", message)
