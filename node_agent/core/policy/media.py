"""Decide which media a request may refer to: none, those of named domains over https, or data in the request.

vLLM fetches a URL from inside the network of the fleet, so a URL is an address that a client makes a node call. The
rule is a list of names, each compared whole, and nothing that needs interpretation: no user, no port, no address in any
notation, no escapes, no other scheme.

vLLM resolves the name itself, later. So what an allowed name resolves to is in the hands of that name's owner; the
node cannot hold it to a public address (docs/security.md).
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, NoReturn

from node_agent.contract.errors import RequestRejected

DOMAINS_SETTING = "SYNKTI_ALLOWED_MEDIA_DOMAINS"
DATA_SETTING = "SYNKTI_MAX_DATA_URL_BYTES"
NO_DOMAIN = "none.invalid"
"""The domain that engines may fetch from where none is allowed: no such name can exist (RFC 2606)."""

MAX_URL_CHARS = 8_192
_HTTPS = re.compile(r"https://([a-z0-9.-]+)(?=[/?#]|\Z)", re.ASCII)
_PRINTABLE = re.compile(r"[!-\[\]-~]+", re.ASCII)
"""Printable ASCII without blanks and without the backslash, which some parsers read as a slash."""

_DATA = re.compile(r"data:(?:image|audio|video)/[\w.+-]+(?:;[\w.+-]+=[\w.+-]*)*;base64,", re.ASCII | re.IGNORECASE)

_IMAGE_TYPE = re.compile(r"image/[\w.+-]{1,64}", re.ASCII)
_FORMAT = re.compile(r"[\w.+-]{1,32}", re.ASCII)


class MediaRules:
    """The rules for media in requests.

    domains: names from which engines may fetch media.
    max_data_bytes: of one item in the request itself, as base64; 0 for none.
    """

    def __init__(self, domains: Collection[str] = (), max_data_bytes: int = 0) -> None:
        self._domains = frozenset(domains)
        self._max_data_bytes = max_data_bytes

    def check_url(self, url: Any, param: str) -> int:
        """Check a URL that an engine would fetch or decode. Raises RequestRejected (400).

        url: the value in the request, of any type.
        param: where it is, for the error.

        Returns:
            Its characters, where it is the data itself; 0 for the address of something.
        """
        if not isinstance(url, str):
            _refuse("The URL of a medium is a text", param)
        if url[:5].lower() == "data:":
            head = _DATA.match(url)
            if self._max_data_bytes and head is None:
                _refuse("A data: URL is an image, audio or video in base64", param)
            return self.check_data(url[head.end() :] if head is not None else url, param)
        if not self._domains:
            message = "No media are fetched for clients; the fleet's operator can allow domains"
            _refuse(f"{message} ({DOMAINS_SETTING})", param)
        if len(url) > MAX_URL_CHARS:
            _refuse(f"The URL has {len(url)} characters, and {MAX_URL_CHARS} are allowed", param)
        found = _HTTPS.match(url)
        if found is None or _PRINTABLE.fullmatch(url) is None:
            _refuse("A URL begins with https:// and the name of a domain, without user, port or address", param)
        if found[1] not in self._domains:
            _refuse(f"Media are not fetched from {found[1][:200]} ({DOMAINS_SETTING})", param)
        return 0

    def check_data(self, data: Any, param: str) -> int:
        """Check data that an engine would decode; return its characters. Raises RequestRejected (400)."""
        if not isinstance(data, str):
            _refuse("The data of a medium are a text", param)
        if not self._max_data_bytes:
            message = "No media are accepted in a request; the fleet's operator can allow them"
            _refuse(f"{message} ({DATA_SETTING})", param)
        if "," in data:  # vLLM reads a comma as the end of a frame of a video, of which it then decodes any number
            _refuse("The data of a medium are one item in base64, without a comma in it", param)
        if len(data) > self._max_data_bytes:
            message = f"One medium may have {self._max_data_bytes} bytes in base64, and this one has {len(data)}"
            _refuse(f"{message} ({DATA_SETTING})", param)
        return len(data)

    def check_source(self, source: Any, param: str) -> int:
        """Check Anthropic's `source` of an image, or OpenAI's `input_audio`. Raises RequestRejected (400).

        vLLM writes a data: URL from their parts.

        Returns:
            The characters of its data.
        """
        if not isinstance(source, dict):
            _refuse("The source of a medium is an object", param)
        if source.get("url") is not None or source.get("type") == "url":
            return self.check_url(source.get("url"), param)
        for name, known in (("media_type", _IMAGE_TYPE), ("format", _FORMAT)):
            value = source.get(name)
            if value is not None and not (isinstance(value, str) and known.fullmatch(value)):
                _refuse(f"The {name} of a medium is not one", param)
        return self.check_data(source.get("data"), param)


def _refuse(message: str, param: str) -> NoReturn:
    raise RequestRejected(400, "media_not_allowed", f"{message}.", param)
