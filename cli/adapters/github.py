"""Ask GitHub's API for the numbers of a repository and its owner."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

from cli.core.github import Repository
from cli.errors import Failed

_API = "https://api.github.com"
_TIMEOUT_S = 5.0
_MAX_BYTES = 1 << 20


def find_repository(name: str, environ: Mapping[str, str]) -> Repository:
    """Return the repository of this name.

    Args:
        name: owner/name.
        environ: GH_TOKEN or GITHUB_TOKEN, if set, is sent: without one private repositories are not found.
            GITHUB_API_URL is another address of the API, as GitHub's own tools read it.

    Raises:
        Failed: the API does not answer, or does not know the repository.
    """
    token = environ.get("GH_TOKEN") or environ.get("GITHUB_TOKEN") or ""
    headers = {"Accept": "application/vnd.github+json", **({"Authorization": f"Bearer {token}"} if token else {})}
    request = urllib.request.Request(f"{environ.get('GITHUB_API_URL') or _API}/repos/{name}", headers=headers)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:  # noqa: S310 # an operator's own address
            return _parse(json.loads(response.read(_MAX_BYTES)))
    except urllib.error.HTTPError as error:
        raise Failed(_refusal(error.code, name, token)) from error
    except (OSError, ValueError) as error:
        raise Failed(f"GitHub's API gave no answer about {name}: {error}") from error


def _parse(document: Any) -> Repository:
    """Raises ValueError where the document is none of a repository."""
    match document:
        case {"full_name": str(name), "id": int(number), "owner": {"id": int(owner)}}:
            return Repository(name, str(owner), str(number))
    raise ValueError("not a repository's document")


def _refusal(status: int, name: str, token: str) -> str:
    if status == 404:
        hint = "" if token else "; if it is private, set GH_TOKEN"
        return f"GitHub has no repository {name}{hint}"
    if status in (401, 403, 429):
        return f"GitHub's API refuses to answer about {name} ({status})"
    return f"GitHub's API failed ({status})"
