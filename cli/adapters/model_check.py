"""Check whether a local model is complete, by its weights' headers, indexes and small documents."""

from __future__ import annotations

import mmap
import zipfile
from collections.abc import Collection
from pathlib import Path

from cli.core import gguf, safetensors
from cli.core.model_check import (
    index_faults,
    is_index,
    is_weights,
    json_fault,
    name_faults,
    pointer_fault,
    size_fault,
)
from cli.core.safetensors import Unreadable

_MAX_JSON_BYTES = 256 * 1024 * 1024
_FIRST_BYTES = 256
_LEGACY_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""The start of files of torch.save before version 1.6: pickles, which do not contain their length."""


def faults(folder: Path, paths: Collection[str]) -> list[str]:
    """Return why vLLM could not load these files of a folder; each fault has an advice. Raises OSError."""
    found = name_faults(paths)
    indexes: dict[str, object] = {}
    tensors: dict[str, Collection[str] | None] = {}
    for path in paths:
        fault = _pointer(folder, path)
        if fault is None and path.endswith(".json"):
            document, fault = _document(folder, path)
            if fault is None and is_index(path):
                indexes[path] = document
        elif is_weights(path):
            tensors[path] = None
            if fault is None:
                tensors[path], fault = _weights(folder, path)
        if fault is not None:
            found.append(fault)
    for path, document in indexes.items():
        found += index_faults(path, document, tensors)
    return found


def _pointer(folder: Path, path: str) -> str | None:
    with (folder / path).open("rb") as file:
        first = file.read(_FIRST_BYTES)
    return pointer_fault(path, first, (folder / path).stat().st_size)


def _document(folder: Path, path: str) -> tuple[object, str | None]:
    if (folder / path).stat().st_size > _MAX_JSON_BYTES:
        return None, f"{path} is larger than any document of a model; leave it out of the folder"
    return json_fault(path, (folder / path).read_bytes())


def _weights(folder: Path, path: str) -> tuple[Collection[str] | None, str | None]:
    """Return the names of a file's tensors, where its header has them, and its fault."""
    file = folder / path
    size = file.stat().st_size
    if size == 0:
        return None, f"{path} is empty; download it again"
    try:
        if path.endswith(".safetensors"):
            header = _safetensors(file, size)
            return header.tensors, size_fault(path, size, header.size, exactly=True)
        if path.endswith(".gguf"):
            return None, size_fault(path, size, _gguf(file), exactly=False)
        _torch(file)
    except Unreadable as error:
        return None, f"{path} {error}; download it again"
    return None, None


def _safetensors(path: Path, size: int) -> safetensors.Header:
    with path.open("rb") as file:
        length = safetensors.header_bytes(file.read(safetensors.LENGTH_BYTES), size)
        return safetensors.parse_header(file.read(length))


def _gguf(path: Path) -> int:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return gguf.min_size(data)


def _torch(path: Path) -> None:
    """Check a file of torch.save: an archive, whose directory is at its end. Raises Unreadable."""
    with path.open("rb") as file:
        first = file.read(len(_LEGACY_TORCH))
    if first == _LEGACY_TORCH:
        return
    try:
        zipfile.ZipFile(path).close()
    except zipfile.BadZipFile as error:
        is_archive = first.startswith(b"PK")
        raise Unreadable("is cut off or damaged" if is_archive else "is no file of PyTorch's") from error
