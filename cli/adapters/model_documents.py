"""Read what a model's size is computed from: of a folder, of the models bucket, of the hub; never the weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cli.adapters.hub import HubRefused, hub_of, read_documents
from cli.adapters.model_files import find_model, list_files
from cli.adapters.models_bucket import ModelsBucket
from cli.core.model_source import select_files
from cli.core.result import Result, Unavailable
from node_agent.contract.hub import HubName
from node_agent.core.sizing.facts import DOCUMENTS, MAX_DOCUMENT_BYTES, ModelFiles


def find_files(given: str, environ: Mapping[str, str]) -> ModelFiles:
    """Read a model's documents where `model push` finds it; on the hub nothing else. Raises CliError."""
    found = find_model(given, environ)
    return hub_files(found, environ) if isinstance(found, HubName) else folder_files(found.folder)


def hub_files(name: HubName, environ: Mapping[str, str]) -> ModelFiles:
    """Read the documents of a model on the hub. Raises NotFound, Failed, HubRefused."""
    hub = hub_of(environ)
    return read_documents(hub, hub.model(name))


def files_from_here(name: HubName, environ: Mapping[str, str], *, build_has_token: bool) -> Result[ModelFiles]:
    """Read the documents of a model on the hub.

    NotFound and Failed of the hub pass through.

    Args:
        name: of the model.
        environ: may have a token of this machine.
        build_has_token: whether the build that copies the model has a token of its own.

    Returns:
        The documents; Unavailable where this machine may not read them, and the build may.

    Raises:
        HubRefused: neither may read them.
    """
    try:
        return hub_files(name, environ)
    except HubRefused as error:
        if not build_has_token:
            raise
        return Unavailable(f"it is not visible from here: {error.message}")


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


def _start(path: Path) -> bytes:
    """Read a document; one that is too long is cut, and refused by its length later."""
    with path.open("rb") as file:
        return file.read(MAX_DOCUMENT_BYTES + 1)
