"""Select a model's files and its default name.

`synkti model push` accepts a model's folder, a folder in the layout of Hugging Face's cache
(`models--org--name/snapshots/<revision>/`), or a name (`org/name`) that is searched for in that cache. The functions
here decide by names only; the adapter reads the disk.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import PurePath

_SAFETENSORS = ".safetensors"
_OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".gguf", ".onnx", ".h5", ".msgpack", ".ot", ".tflite")
_UNWANTED = ("original/", "onnx/", "coreml/", "openvino/")
_CONFIGS = ("config.json", "params.json")


@dataclass(frozen=True)
class FileSelection:
    """The paths that are pushed, those that are not, and why."""

    included: tuple[str, ...]
    excluded: tuple[str, ...]
    reason: str


def select_files(paths: Collection[str], *, everything: bool) -> FileSelection:
    """Select files without duplicate weights: vLLM reads safetensors where there are any, other formats are excluded.

    Args:
        paths: relative to the model's folder, with slashes.
        everything: include all files.

    Returns:
        The selection; hidden files are in neither of its parts.
    """
    visible = sorted(path for path in paths if not any(part.startswith(".") for part in path.split("/")))
    if everything or not any(path.endswith(_SAFETENSORS) for path in visible):
        return FileSelection(tuple(visible), (), "")
    leave = tuple(path for path in visible if path.endswith(_OTHER_WEIGHTS) or path.startswith(_UNWANTED))
    take = tuple(path for path in visible if path not in leave)
    return FileSelection(take, leave, "weights in other formats than safetensors, which vLLM would not read")


def model_fault(paths: Collection[str]) -> str | None:
    """Return why vLLM could not load these files; None where there is no such reason."""
    if not paths:
        return "there is no file in it"
    if any(path in _CONFIGS or path.endswith(".gguf") for path in paths):
        return None
    return f"it has none of {', '.join(_CONFIGS)}, *.gguf, so vLLM cannot detect the model's type"


def cache_folder_name(repository: str) -> str:
    """Return the name of a model's folder in Hugging Face's cache."""
    return "models--" + repository.replace("/", "--")


def default_name(folder: PurePath) -> str:
    """Return a model's name from its folder: the repository's name in Hugging Face's cache, else the folder's."""
    for part in (folder, *folder.parents[:2]):
        if part.name.startswith("models--"):
            return part.name.rsplit("--", 1)[-1]
    return folder.name
