"""A model in the models bucket: its files under `models/<name>/`, and the manifest that says what they have to be.

The manifest is written last, so that a model without one is a model that was never wholly there. It is text, one line
for each file: SHA-256 in hexadecimal, size in bytes, path, one blank between them; ordered by path. The SHA-256 of
that text names the weights (the setting `model_sha256`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

MANIFEST = "manifest.sha256"
MAX_FILES = 10_000
MAX_MANIFEST_BYTES = 4 * 1024 * 1024

OLD_VERSION_DAYS = 30
"""How long the bucket keeps what was overwritten or removed: the time in which a mistake can be undone."""

_LINE = re.compile(r"([0-9a-f]{64}) (\d{1,15}) (\S.*)")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


@dataclass(frozen=True, order=True)
class ModelFile:
    """A file of a model. path: below the model's folder, with slashes; size: bytes."""

    path: str
    sha256: str
    size: int


def is_model_name(name: str) -> bool:
    """Return whether it is up to 96 letters, digits, dots, hyphens, underscores: a folder's name on disk and in S3."""
    return _NAME.fullmatch(name) is not None


def model_prefix(name: str) -> str:
    """Return the key under which all of a model's objects lie."""
    return f"models/{name}/"


def manifest_key(name: str) -> str:
    """Return the key of a model's manifest: the object that exists only where the model is complete."""
    return model_prefix(name) + MANIFEST


def format_manifest(files: Iterable[ModelFile]) -> str:
    """Write a manifest. Raises ValueError where a path cannot be read back, or would lie outside the model's folder."""
    ordered = sorted(files)
    for file in ordered:
        _check_path(file.path)
    return "".join(f"{file.sha256} {file.size} {file.path}\n" for file in ordered)


def parse_manifest(text: str) -> tuple[ModelFile, ...]:
    """Read a manifest. Raises ValueError, naming the line, for anything that `format_manifest` does not write."""
    files = []
    for number, line in enumerate(text.splitlines(), start=1):
        match = _LINE.fullmatch(line)
        if match is None:
            raise ValueError(f"line {number} of the manifest is not 'SHA-256 size path'")
        _check_path(match[3])
        files.append(ModelFile(match[3], match[1], int(match[2])))
    if not files:
        raise ValueError("the manifest is empty")
    if len({file.path for file in files}) != len(files):
        raise ValueError("the manifest names a file twice")
    if len(files) > MAX_FILES:
        raise ValueError(f"the manifest names {len(files)} files, more than the {MAX_FILES} allowed")
    return tuple(files)


def manifest_digest(text: str) -> str:
    """Return the digest that the setting `model_sha256` holds."""
    return hashlib.sha256(text.encode()).hexdigest()


def _check_path(path: str) -> None:
    pure = PurePosixPath(path)
    if str(pure) != path or pure.is_absolute() or ".." in pure.parts or not path.isprintable() or path == MANIFEST:
        raise ValueError(f"{path!r} cannot be the path of a model's file")
