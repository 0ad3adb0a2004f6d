"""Parse what a hub responds about a model, and explain its refusals."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from node_agent.contract.hub import HubName
from node_agent.contract.models import MAX_FILES

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_HOW_TO_STORE = (
    "aws secretsmanager create-secret --name synkti-hub-token --secret-string TOKEN, "
    'and hub_token_secret = "synkti-hub-token" in synkti.toml (HF_TOKEN for commands on this machine)'
)


@dataclass(frozen=True)
class HubFile:
    """A file of a model. size: bytes; sha256: of large files; blob_id: of the others, the id that git gives them."""

    path: str
    size: int
    sha256: str | None
    blob_id: str


@dataclass(frozen=True)
class HubModel:
    """A model at one commit. repository: as the hub spells it."""

    repository: str
    commit: str
    files: tuple[HubFile, ...]

    @property
    def origin(self) -> str:
        """The repository and the commit."""
        return f"{self.repository}@{self.commit}"

    @property
    def sizes(self) -> dict[str, int]:
        """The files' bytes by path."""
        return {file.path: file.size for file in self.files}


class Refusal(Enum):
    """Why a hub does not give a model. GATED, UNKNOWN: another token may get it; MISSING: nothing gets it."""

    GATED = auto()
    UNKNOWN = auto()
    MISSING = auto()
    OTHER = auto()


def parse_model(document: Any) -> HubModel:
    """Parse the response of `/api/models/<repository>?blobs=true`. Raises ValueError."""
    match document:
        case {"id": str(repository), "sha": str(commit), "siblings": list(siblings)} if _COMMIT.fullmatch(commit):
            pass
        case _:
            raise ValueError("it has no id, no commit or no list of files")
    if len(siblings) > MAX_FILES:
        raise ValueError(f"it has more than {MAX_FILES} files")
    return HubModel(repository, commit, tuple(_file(each) for each in siblings))


def _file(document: Any) -> HubFile:
    match document:
        case {"rfilename": str(path), "size": int(size), "lfs": {"sha256": str(digest)}} if _SHA256.fullmatch(digest):
            found = HubFile(path, size, digest, "")
        case {"rfilename": str(path), "size": int(size), "blobId": str(blob_id)}:
            found = HubFile(path, size, None, blob_id)
        case _:
            raise ValueError("it states no size or no hash of a file")
    if found.size < 0:
        raise ValueError("it states a negative size of a file")
    return found


def git_blob_id(body: bytes) -> str:
    """Return the id that git gives a file of this content. Source: git's hash-object."""
    return hashlib.sha1(b"blob %d\0" % len(body) + body, usedforsecurity=False).hexdigest()


def refusal(status: int, code: str) -> Refusal:
    """Return what a response means. status: of HTTP; code: its header X-Error-Code, which may be empty.

    Source: huggingface_hub's `hf_raise_for_status`.
    """
    if code == "GatedRepo":
        return Refusal.GATED
    if code in ("RevisionNotFound", "EntryNotFound"):
        return Refusal.MISSING
    if code == "RepoNotFound" or status in (401, 403, 404):
        return Refusal.UNKNOWN
    return Refusal.OTHER


def explain(why: Refusal, status: int, name: HubName, hub: str, *, has_token: bool) -> tuple[str, str]:
    """Return a sentence and an advice for a refusal. hub: the hub's address."""
    where = f"{hub}/{name.repository}"
    if why is Refusal.GATED and not has_token:
        return (
            f"{name.repository} is gated: the hub gives it only to accounts that have accepted its terms",
            f"accept them at {where}, make a token that may read it, and store it: {_HOW_TO_STORE}",
        )
    if why is Refusal.GATED:
        return (
            f"{name.repository} is gated, and the token's account has no access to it",
            f"accept its terms at {where} with the account of that token; some owners approve each request by hand",
        )
    if why is Refusal.MISSING:
        return f"{where} has no revision {name.revision or 'main'}", "see its branches and tags there"
    if why is Refusal.UNKNOWN and has_token:
        return (
            f"the hub has no {name.repository}, or the token may not read it",
            f"compare the name with {where}, and see whether the token is still valid and may read that repository",
        )
    if why is Refusal.UNKNOWN:
        return (
            f"the hub has no {name.repository}, or it is private",
            f"compare the name with {where}; for a private one store a token: {_HOW_TO_STORE}",
        )
    return f"the hub failed to give {name.repository} ({status})", "run it again later; what has been copied stays"
