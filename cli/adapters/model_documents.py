"""Read what a model's size is computed from: of a folder, of the models bucket, of the hub; never the weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cli.adapters.model_files import find_local, list_files, not_found
from cli.adapters.models_bucket import ModelsBucket
from cli.core.model_source import select_files
from cli.errors import NotFound
from node_agent.core.sizing.facts import DOCUMENTS, MAX_DOCUMENT_BYTES, ModelFiles


def find_files(given: str, environ: Mapping[str, str]) -> ModelFiles:
    """Find a model as `model push` does, but download no more than its documents. Raises NotFound, Failed."""
    found = find_local(given, environ)
    return folder_files(found.folder) if not isinstance(found, list) else hub_files(given, found)


def folder_files(folder: Path) -> ModelFiles:
    """Read a folder. Raises Failed, OSError."""
    paths = select_files(list_files(folder), everything=False).included
    sizes = {path: file_size(folder / path) for path in paths}
    documents = {path: _start(folder / path) for path in DOCUMENTS if path in sizes}
    return ModelFiles(documents, sizes)


def file_size(path: Path) -> int:
    """Return a file's bytes. Raises OSError."""
    return path.stat().st_size


def bucket_files(bucket: ModelsBucket, name: str) -> ModelFiles | None:
    """Read a model in the bucket; None where it has no such model. Raises ClientError, SynktiError."""
    manifest = bucket.manifest(name) if bucket.exists() else None
    if manifest is None:
        return None
    sizes = {file.path: file.size for file in manifest.files}
    return ModelFiles({path: bucket.read(name, path, sizes[path]) for path in DOCUMENTS if path in sizes}, sizes)


def hub_files(repository: str, searched: list[str]) -> ModelFiles:
    """Read a model on the hub: the list of its files, and its documents. searched: caches without it, for the error."""
    try:
        import huggingface_hub  # type: ignore[import-not-found, unused-ignore]  # noqa: PLC0415 # optional
    except ImportError:
        raise not_found(repository, searched) from None
    try:
        info = huggingface_hub.HfApi().model_info(repository, files_metadata=True)
        sizes = {str(each.rfilename): int(each.size or 0) for each in info.siblings}
        paths = {path: Path(huggingface_hub.hf_hub_download(repository, path)) for path in DOCUMENTS if path in sizes}
        return ModelFiles({path: _start(where) for path, where in paths.items()}, sizes)
    except (OSError, ValueError) as error:  # the base classes of that library's errors
        raise NotFound(f"{repository} could not be read on the hub: {error}") from error


def _start(path: Path) -> bytes:
    """Read a document; one that is too long is cut, and refused by its length later."""
    with path.open("rb") as file:
        return file.read(MAX_DOCUMENT_BYTES + 1)
