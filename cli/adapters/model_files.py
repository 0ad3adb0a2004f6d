"""Find, hash and read a model's files on this machine."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from cli.core.model_source import cache_folder_name, default_name
from cli.errors import Failed, NotFound
from node_agent.contract.hub import HubName, parse_hub_name
from node_agent.contract.models import MAX_FILES, ModelFile

_CHUNK_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True)
class ModelSource:
    """A model's folder. name: the default name of the model; copy_of: owner/name@commit on the hub, "" if unknown."""

    folder: Path
    name: str
    copy_of: str = ""


def find_model(given: str, environ: Mapping[str, str]) -> ModelSource | HubName:
    """Find a model on the disk, then in Hugging Face's cache; else it is one on the hub.

    Args:
        given: a folder, or a name on the hub: owner/name, or owner/name@revision.
        environ: has the variables that locate the cache.

    Returns:
        The folder with the model's files, which are not checked yet; or the name.

    Raises:
        NotFound: it is neither a folder nor a name.
    """
    folder = Path(given).expanduser()
    if folder.is_dir():
        found = _snapshot_folder(folder.resolve(), "") if (folder / "snapshots").is_dir() else folder.resolve()
        return ModelSource(found, default_name(found))
    try:
        name = parse_hub_name(given)
    except ValueError as error:
        advice = "give a model's folder, or its name on the hub: owner/name, or owner/name@revision"
        raise NotFound(f"there is no folder {given}", advice) from error
    for cache in cache_folders(environ):
        kept = cache / cache_folder_name(name.repository)
        if (kept / "snapshots").is_dir() and (not name.revision or _revision(kept, name.revision) is not None):
            found = _snapshot_folder(kept, name.revision)
            return ModelSource(found, name.model_name, f"{name.repository}@{found.name}")
    return name


def cache_folders(environ: Mapping[str, str]) -> list[Path]:
    """Return where Hugging Face's libraries store models, according to their environment variables."""
    if environ.get("HF_HUB_CACHE"):
        return [Path(environ["HF_HUB_CACHE"])]
    if environ.get("HF_HOME"):
        return [Path(environ["HF_HOME"]) / "hub"]
    base = Path(environ["XDG_CACHE_HOME"]) if environ.get("XDG_CACHE_HOME") else Path.home() / ".cache"
    return [base / "huggingface" / "hub"]


def list_files(folder: Path) -> list[str]:
    """Return the paths below the folder, with slashes; links are followed. Raises Failed for a broken link."""
    found = []
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [each for each in folders if not each.startswith(".")]
        for name in names:
            path = Path(parent, name)
            if not path.is_file():
                raise Failed(f"{path} is a link that leads to no file", "complete the download, or remove it")
            found.append(path.relative_to(folder).as_posix())
            if len(found) > MAX_FILES:
                raise Failed(f"{folder} has more than {MAX_FILES} files: not a model's folder")
    return sorted(found)


def hash_files(folder: Path, paths: Iterable[str], on_bytes: Callable[[int], None]) -> list[ModelFile]:
    """Return every file with its size and SHA-256, in parallel. on_bytes: called with bytes read, from any thread."""

    def one(path: str) -> ModelFile:
        digest, size = hashlib.sha256(), 0
        with (folder / path).open("rb") as file:
            while piece := file.read(_CHUNK_BYTES):
                digest.update(piece)
                size += len(piece)
                on_bytes(len(piece))
        return ModelFile(path, digest.hexdigest(), size)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(one, paths))


def read_part(folder: Path, path: str, start: int, end: int) -> bytes:
    """Return the bytes from start to end (exclusive). Raises Failed where the file has become shorter."""
    with (folder / path).open("rb") as file:
        file.seek(start)
        body = file.read(end - start)
    if len(body) != end - start:
        raise Failed(f"{path} changed while it was uploaded", "run the command again when nothing writes to it")
    return body


def _snapshot_folder(repository: Path, revision: str) -> Path:
    """Return the folder of a revision; of `main`, else of the only one, where none is requested. Raises NotFound."""
    folder = _revision(repository, revision or "main")
    if folder is not None:
        return folder
    revisions = sorted(path for path in (repository / "snapshots").iterdir() if path.is_dir())
    if len(revisions) != 1:
        raise NotFound(
            f"{repository} has {len(revisions)} revisions, and none is main",
            "give the folder of one of them, below snapshots/",
        )
    return revisions[0]


def _revision(repository: Path, revision: str) -> Path | None:
    """Return the folder of a branch, a tag or a commit in the cache; None where it is not there."""
    named = repository / "refs" / revision
    commit = named.read_text().strip() if named.is_file() else revision
    folder = repository / "snapshots" / commit
    return folder if folder.is_dir() else None
