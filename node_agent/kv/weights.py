"""Which weights an engine has: a digest of a model's folder, all of it read. Blocks of other weights are worthless.

A node that brought its model by a manifest knows a digest already and passes it on; this is for all others.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".json")
_CHUNK_BYTES = 8 * 1024 * 1024


@cache
def weights_digest(folder: Path) -> str | None:
    """Hexadecimal; None where it is no folder, or has no such files. Raises OSError."""
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
