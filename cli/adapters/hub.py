"""Read models on a hub that has the API of Hugging Face's: the list of files, and ranges of them.

Standard library only: the job that copies a model in the region runs this, too.
"""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, urlsplit

from cli.core.hub import HubModel, Refusal, explain, parse_model, refusal
from cli.core.model_source import select_files
from cli.errors import Failed, NoAccess, NotFound
from node_agent.contract.hub import DEFAULT_HUB, HubName
from node_agent.core.sizing.facts import DOCUMENTS, MAX_DOCUMENT_BYTES, ModelFiles

TRIES = 6
"""Of one request. The waits between them are 1, 2, 4, 8 and 16 s, or what the hub requests, a minute at most."""

_TIMEOUT_S = 30.0
_MAX_LISTING_BYTES = 32 * 1024 * 1024
_MAX_WAIT_S = 60.0
_PLAIN_TEXT = "store the text hf_... alone, without quotes and line ends"
_TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})


class HubRefused(NoAccess):
    """The hub gives this model only with a token, or with another one."""


class Hub:
    """A hub. token: "" for none; it is sent to the hub only, not to where the hub redirects. sleep: in seconds.

    Raises Failed for a token that cannot be sent.
    """

    def __init__(self, address: str, token: str = "", sleep: Callable[[float], None] = time.sleep) -> None:
        if not (token.isascii() and token.isprintable()):  # it becomes a header
            raise Failed("the hub's token is no token: it has line ends, or characters that no token has", _PLAIN_TEXT)
        self.address = address.rstrip("/")
        self._token = token
        self._sleep = sleep
        self._opener = urllib.request.build_opener(_Redirects)

    def model(self, name: HubName) -> HubModel:
        """List a model's files at the commit that its revision is now. Raises HubRefused, NotFound, Failed."""
        path = f"/api/models/{quote(name.repository)}"
        if name.revision:
            path += f"/revision/{quote(name.revision, safe='')}"
        body = self._get(name, f"{path}?blobs=true", {}, _MAX_LISTING_BYTES)
        try:
            return parse_model(json.loads(body))
        except (ValueError, RecursionError) as error:
            raise Failed(f"the hub's list of {name} cannot be used: {error}") from error

    def read(self, model: HubModel, path: str, start: int, end: int) -> bytes:
        """Return the bytes from start to end (exclusive) of a file. Raises HubRefused, NotFound, Failed."""
        if start == end:
            return b""
        name = HubName(model.repository, model.commit)
        url = f"/{quote(model.repository)}/resolve/{model.commit}/{quote(path)}"
        body = self._get(name, url, {"Range": f"bytes={start}-{end - 1}"}, end - start)
        if len(body) != end - start:
            raise Failed(f"{path} of {name} has another size than the hub's list says")
        return body

    def _get(self, name: HubName, url: str, headers: Mapping[str, str], max_bytes: int) -> bytes:
        """Return the body of a response. Raises Failed also where it is longer than max_bytes."""
        reason = ""
        for attempt in range(TRIES):
            wait_s = 2.0**attempt
            try:
                return self._once(url, headers, max_bytes)
            except urllib.error.HTTPError as error:
                error.close()
                reason = f"status {error.code}"
                if error.code not in _TRANSIENT:
                    raise self._refused(name, error) from error
                wait_s = _retry_after_s(error.headers, wait_s)
            except (OSError, http.client.HTTPException) as error:
                reason = str(error)
            if attempt < TRIES - 1:
                self._sleep(wait_s)
        raise Failed(f"{self.address} does not give {name}: {reason}", "run it again; what has been copied stays")

    def _once(self, url: str, headers: Mapping[str, str], max_bytes: int) -> bytes:
        signed = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        sent = {"User-Agent": "synkti", **headers, **signed}
        request = urllib.request.Request(self.address + url, headers=sent)  # noqa: S310 # an operator's own address
        with self._opener.open(request, timeout=_TIMEOUT_S) as response:
            body: bytes = response.read(max_bytes + 1)
            expected = response.headers.get("Content-Length", "")
        if len(body) > max_bytes:
            raise Failed(f"{self.address}{url} is longer than {max_bytes} bytes", "is HF_ENDPOINT a hub?")
        if expected.isdigit() and len(body) != int(expected):
            raise http.client.IncompleteRead(body, int(expected) - len(body))
        return body

    def _refused(self, name: HubName, error: urllib.error.HTTPError) -> Exception:
        why = refusal(error.code, error.headers.get("X-Error-Code", ""))
        message, advice = explain(why, error.code, name, self.address, has_token=bool(self._token))
        if why in (Refusal.GATED, Refusal.UNKNOWN):
            return HubRefused(message, advice)
        return NotFound(message, advice) if why is Refusal.MISSING else Failed(message, advice)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects without the hub's token at other hosts, and from https to https only."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        old, new = urlsplit(req.full_url), urlsplit(newurl)
        if new.scheme not in ("https", old.scheme):
            raise Failed(f"the hub redirects to {new.scheme}://{new.netloc}, which is not encrypted")
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request is not None and (new.scheme, new.netloc) != (old.scheme, old.netloc):
            request.remove_header("Authorization")
        return request


def read_documents(hub: Hub, model: HubModel) -> ModelFiles:
    """Read what a model's size is computed from. Raises HubRefused, NotFound, Failed."""
    used = set(select_files(model.sizes, everything=False).included)
    sizes = {path: size for path, size in model.sizes.items() if path in used}
    # One that is too long is cut, and refused by its length later.
    lengths = {path: min(sizes[path], MAX_DOCUMENT_BYTES + 1) for path in DOCUMENTS if path in sizes}
    return ModelFiles({path: hub.read(model, path, 0, length) for path, length in lengths.items()}, sizes)


def hub_of(environ: Mapping[str, str]) -> Hub:
    """Return the hub that Hugging Face's own variables name (HF_ENDPOINT), with the token that they find here."""
    return Hub(environ.get("HF_ENDPOINT") or DEFAULT_HUB, _token(environ))


def _token(environ: Mapping[str, str]) -> str:
    """Return the token of HF_TOKEN, else of the file that `hf auth login` writes; "" where there is none."""
    if environ.get("HF_TOKEN"):
        return environ["HF_TOKEN"].strip()
    home = environ.get("HF_HOME") or str(Path(environ.get("HOME") or "/nonexistent") / ".cache" / "huggingface")
    try:
        return Path(home, "token").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _retry_after_s(headers: Any, otherwise: float) -> float:
    given = str(headers.get("Retry-After", "")).strip()
    return min(float(given), _MAX_WAIT_S) if given.isdigit() else otherwise
