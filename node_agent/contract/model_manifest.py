"""The manifest of a model in the models bucket: what makes a folder of objects one whole model.

Rules kept here:

* `models/<name>/manifest.json` is written after every file and removed before the first, so that a model without one
  is not whole;
* it says of each file where it lies below `models/<name>/`, how long it is and what its SHA-256 is, and nothing else:
  equal content makes an equal manifest, whose own SHA-256 therefore names the content;
* a path leads nowhere but below the model's folder: a manifest is written by whoever may write to the bucket, and its
  paths become files on every node.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FORMAT = 1
MANIFEST_NAME = "manifest.json"
MAX_FILES = 10_000
MAX_MANIFEST_BYTES = 8 * 1024 * 1024

_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_PATH = 512


@dataclass(frozen=True)
class ModelFile:
    """path: below the model's folder, with slashes; size: bytes; sha256: 64 lower case hexadecimal digits."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """files: in the order of their paths."""

    files: tuple[ModelFile, ...]

    @property
    def total_bytes(self) -> int:
        return sum(file.size for file in self.files)

    def encode(self) -> bytes:
        """The document as it lies in the bucket; equal for equal files."""
        files = [{"path": f.path, "size": f.size, "sha256": f.sha256} for f in self.files]
        return (json.dumps({"format": FORMAT, "files": files}, indent=1) + "\n").encode()

    @property
    def sha256(self) -> str:
        """Names the content of the whole model."""
        return hashlib.sha256(self.encode()).hexdigest()


def manifest_of(files: Mapping[str, tuple[int, str]]) -> Manifest:
    """files: path to size and SHA-256. Raises ValueError where they are not what a manifest may hold."""
    return _checked([ModelFile(path, size, sha256) for path, (size, sha256) in files.items()])


def parse_manifest(body: bytes) -> Manifest:
    """Raises ValueError saying what is wrong with it."""
    if len(body) > MAX_MANIFEST_BYTES:
        raise ValueError(f"longer than {MAX_MANIFEST_BYTES} bytes")
    document = json.loads(body)
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ValueError(f"not a manifest of format {FORMAT}")
    entries = document.get("files")
    if not isinstance(entries, list):
        raise ValueError("it has no list of files")
    return _checked([_entry(entry) for entry in entries])


def is_model_name(name: str) -> bool:
    """Up to 96 letters, digits, dots, hyphens and underscores: a folder's name in S3, and what clients ask for."""
    return _MODEL.fullmatch(name) is not None


def model_prefix(name: str) -> str:
    """What the keys of a model's objects begin with."""
    return f"models/{name}/"


def manifest_key(name: str) -> str:
    return model_prefix(name) + MANIFEST_NAME


def model_path_fault(path: str) -> str | None:
    """Why a file of a model may not have this path; None where it may."""
    parts = path.split("/")
    if not path or len(path) > _MAX_PATH or not path.isprintable() or "\\" in path:
        return f"{path!r} is empty, longer than {_MAX_PATH} characters, or has characters that no path needs"
    if any(part in ("", ".", "..") for part in parts):
        return f"{path!r} is not a plain path below the model's folder"
    return f"{path!r} is the manifest's own name" if path == MANIFEST_NAME else None


def _entry(entry: Any) -> ModelFile:
    if not isinstance(entry, dict):
        raise ValueError("a file's entry is not an object")
    path, size, sha256 = entry.get("path"), entry.get("size"), entry.get("sha256")
    if not isinstance(path, str) or isinstance(size, bool) or not isinstance(size, int) or not isinstance(sha256, str):
        raise ValueError("a file's entry lacks its path, size or sha256")
    return ModelFile(path, size, sha256)


def _checked(files: list[ModelFile]) -> Manifest:
    if not 0 < len(files) <= MAX_FILES:
        raise ValueError(f"{len(files)} files; a model has from 1 to {MAX_FILES}")
    paths = {file.path for file in files}
    if len(paths) != len(files):
        raise ValueError("a path is named twice")
    for file in files:
        if fault := model_path_fault(file.path):
            raise ValueError(fault)
        if file.size < 0 or not _SHA256.fullmatch(file.sha256):
            raise ValueError(f"{file.path!r} has no size or no SHA-256 in 64 hexadecimal digits")
        parents = file.path.split("/")[:-1]
        if any("/".join(parents[: n + 1]) in paths for n in range(len(parents))):
            raise ValueError(f"{file.path!r} lies below another file")
    return Manifest(tuple(sorted(files, key=lambda file: file.path)))
