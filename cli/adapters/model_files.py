"""Find, hash and read a model's files on this machine."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from cli.core.model_source import cache_folder_name, default_name, is_repository
from cli.errors import Failed, NotFound
from node_agent.contract.models import MAX_FILES, ModelFile

_CHUNK_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True)
class ModelSource:
    """A model's folder. name: the default name of the model; origin: describes where it was found."""

    folder: Path
    name: str
    origin: str


def find_source(given: str, environ: Mapping[str, str], report: Callable[[str], None]) -> ModelSource:
    """Find a model on the disk, then in Hugging Face's cache, else download it from the hub.

    Args:
        given: a folder or a model's name.
        environ: has the variables that locate the cache.
        report: called with a line about a download.

    Returns:
        The folder with the model's files, which are not checked yet. Where it is in none of these, and cannot be
        downloaded, NotFound has the folders that were searched.
    """
    found = find_local(given, environ)
    if isinstance(found, ModelSource):
        return found
    return ModelSource(_download(given, found, report), given.rsplit("/", 1)[-1], "the hub")


def find_local(given: str, environ: Mapping[str, str]) -> ModelSource | list[str]:
    """Return a model on the disk or in Hugging Face's cache; else the caches that were searched. Raises NotFound."""
    folder = Path(given).expanduser()
    if folder.is_dir():
        found = _snapshot_folder(folder.resolve()) if (folder / "snapshots").is_dir() else folder.resolve()
        return ModelSource(found, default_name(found), str(folder))
    if not is_repository(given):
        raise NotFound(f"there is no folder {given}", "give a model's folder, or its name on the hub: owner/name")
    tried = []
    for cache in cache_folders(environ):
        kept = cache / cache_folder_name(given)
        if (kept / "snapshots").is_dir():
            return ModelSource(_snapshot_folder(kept), given.rsplit("/", 1)[-1], f"Hugging Face's cache, {cache}")
        tried.append(str(cache))
    return tried


def not_found(repository: str, searched: list[str]) -> NotFound:
    """Return the error for a model that is nowhere here and cannot be downloaded. searched: caches without it."""
    return NotFound(
        f"{repository} is neither a folder here nor in {', '.join(searched)}",
        "give a folder; or install huggingface_hub beside synkti (pipx inject synkti huggingface_hub)",
    )


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


def _snapshot_folder(repository: Path) -> Path:
    """Return the folder of the revision `main`; the only revision where there is no `main`. Raises NotFound."""
    main = repository / "refs" / "main"
    if main.is_file():
        folder = repository / "snapshots" / main.read_text().strip()
        if folder.is_dir():
            return folder
    revisions = sorted(path for path in (repository / "snapshots").iterdir() if path.is_dir())
    if len(revisions) != 1:
        raise NotFound(
            f"{repository} has {len(revisions)} revisions, and none is main",
            "give the folder of one of them, below snapshots/",
        )
    return revisions[0]


def _download(repository: str, tried: list[str], report: Callable[[str], None]) -> Path:
    try:
        import huggingface_hub  # type: ignore[import-not-found, unused-ignore]  # noqa: PLC0415 # optional
    except ImportError:
        raise not_found(repository, tried) from None
    report(f"{repository} is downloaded from the hub first")
    try:
        return Path(huggingface_hub.snapshot_download(repository))
    except (OSError, ValueError) as error:  # the base classes of that library's errors
        raise NotFound(f"{repository} could not be downloaded from the hub: {error}") from error
