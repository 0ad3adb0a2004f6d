"""A model's files on this machine: found, hashed, read in parts."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from cli.core.model_source import cache_folder, default_name, is_repository
from cli.errors import Failed, NotFound
from node_agent.contract.models import MAX_FILES, ModelFile

_CHUNK_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True)
class Source:
    """Where a model's files are. name: what it is called after; origin: for a person, where it was found."""

    folder: Path
    name: str
    origin: str


def find_source(given: str, environ: Mapping[str, str], tell: Callable[[str], None]) -> Source:
    """given: a folder or a model's name. Looks at the disk, then in Hugging Face's cache, then asks the hub.

    Raises NotFound, saying what was tried.
    """
    folder = Path(given).expanduser()
    if folder.is_dir():
        found = _snapshot(folder.resolve()) if (folder / "snapshots").is_dir() else folder.resolve()
        return Source(found, default_name(found), str(folder))
    if not is_repository(given):
        raise NotFound(f"there is no folder {given}", "give a model's folder, or its name on the hub: owner/name")
    tried = []
    for cache in cache_folders(environ):
        kept = cache / cache_folder(given)
        if (kept / "snapshots").is_dir():
            return Source(_snapshot(kept), given.rsplit("/", 1)[-1], f"Hugging Face's cache, {cache}")
        tried.append(str(cache))
    return Source(_download(given, tried, tell), given.rsplit("/", 1)[-1], "the hub")


def cache_folders(environ: Mapping[str, str]) -> list[Path]:
    """Where Hugging Face's libraries keep models, by their own variables."""
    if environ.get("HF_HUB_CACHE"):
        return [Path(environ["HF_HUB_CACHE"])]
    if environ.get("HF_HOME"):
        return [Path(environ["HF_HOME"]) / "hub"]
    base = Path(environ["XDG_CACHE_HOME"]) if environ.get("XDG_CACHE_HOME") else Path.home() / ".cache"
    return [base / "huggingface" / "hub"]


def list_files(folder: Path) -> list[str]:
    """Paths below the folder, with slashes; links count as what they lead to. Raises Failed for a broken link."""
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


def hash_files(folder: Path, paths: Iterable[str], done: Callable[[int], None]) -> list[ModelFile]:
    """Every file with its size and SHA-256, several at once. done: hears of bytes read, from any thread."""

    def one(path: str) -> ModelFile:
        digest, size = hashlib.sha256(), 0
        with (folder / path).open("rb") as file:
            while piece := file.read(_CHUNK_BYTES):
                digest.update(piece)
                size += len(piece)
                done(len(piece))
        return ModelFile(path, digest.hexdigest(), size)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(one, paths))


def read_part(folder: Path, path: str, start: int, end: int) -> bytes:
    """The bytes from start to end (exclusive). Raises Failed where the file has become shorter."""
    with (folder / path).open("rb") as file:
        file.seek(start)
        body = file.read(end - start)
    if len(body) != end - start:
        raise Failed(f"{path} changed while it was uploaded", "run the command again when nothing writes to it")
    return body


def _snapshot(repository: Path) -> Path:
    """The revision that `main` names; the only one where nothing is named so."""
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


def _download(repository: str, tried: list[str], tell: Callable[[str], None]) -> Path:
    try:
        import huggingface_hub  # type: ignore[import-not-found, unused-ignore]  # noqa: PLC0415 # only where it is there
    except ImportError:
        raise NotFound(
            f"{repository} is neither a folder here nor in {', '.join(tried)}",
            "give a folder; or install huggingface_hub beside synkti (pipx inject synkti huggingface_hub)",
        ) from None
    tell(f"{repository} is downloaded from the hub first")
    try:
        return Path(huggingface_hub.snapshot_download(repository))
    except (OSError, ValueError) as error:  # what that library's own errors are made of
        raise NotFound(f"{repository} could not be downloaded from the hub: {error}") from error
