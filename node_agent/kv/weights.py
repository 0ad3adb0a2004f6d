"""Identify an engine's weights by a digest of the model's folder, which reads all of it.

Blocks of other weights are useless. A node that downloaded its model by a manifest has a digest already and passes it
on; this is for all others.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".json")
_CHUNK_BYTES = 8 * 1024 * 1024


@cache
def weights_digest(folder: Path) -> str | None:
    """Return the digest in hexadecimal; None where it is no folder, or has no such files. Raises OSError."""
    if not folder.is_dir():
        return None
    files = sorted(path for path in folder.rglob("*") if path.suffix in _SUFFIXES and path.is_file())
    if not files:
        return None
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(folder).as_posix()} {path.stat().st_size}\n".encode())
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()
