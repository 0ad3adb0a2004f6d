"""Which files make a model, and what it is called.

What `synkti model push` is given may be a folder with a model in it, a folder in the layout of Hugging Face's cache
(`models--org--name/snapshots/<revision>/`), or a name (`org/name`) to be looked for in that cache. All that is decided
here from names; the adapter looks at the disk.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import PurePath

_SAFETENSORS = ".safetensors"
_OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".gguf", ".onnx", ".h5", ".msgpack", ".ot", ".tflite")
_UNWANTED = ("original/", "onnx/", "coreml/", "openvino/")
_CONFIGS = ("config.json", "params.json")
_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")


@dataclass(frozen=True)
class Choice:
    """take: the paths that are pushed; leave: those that are not, and why."""

    take: tuple[str, ...]
    leave: tuple[str, ...]
    reason: str


def choose_files(paths: Collection[str], *, everything: bool) -> Choice:
    """Weights once: where there are safetensors, vLLM reads those, and other formats would only double the model."""
    visible = sorted(path for path in paths if not any(part.startswith(".") for part in path.split("/")))
    if everything or not any(path.endswith(_SAFETENSORS) for path in visible):
        return Choice(tuple(visible), (), "")
    leave = tuple(path for path in visible if path.endswith(_OTHER_WEIGHTS) or path.startswith(_UNWANTED))
    take = tuple(path for path in visible if path not in leave)
    return Choice(take, leave, "weights in other formats than safetensors, which vLLM would not read")


def model_fault(paths: Collection[str]) -> str | None:
    """Why vLLM could not load these files; None where nothing speaks against it."""
    if not paths:
        return "there is no file in it"
    if any(path in _CONFIGS or path.endswith(".gguf") for path in paths):
        return None
    return f"it has none of {', '.join(_CONFIGS)}, *.gguf, so vLLM could not tell what model it is"


def is_repository(text: str) -> bool:
    """Whether it could be a model's name on a hub: name, or owner/name."""
    return _REPOSITORY.fullmatch(text) is not None


def cache_folder(repository: str) -> str:
    """What Hugging Face's cache calls the folder of a model."""
    return "models--" + repository.replace("/", "--")


def default_name(folder: PurePath) -> str:
    """What a model is called after the folder that it lies in: the repository's name where that can be seen."""
    for part in (folder, *folder.parents[:2]):
        if part.name.startswith("models--"):
            return part.name.rsplit("--", 1)[-1]
    return folder.name
