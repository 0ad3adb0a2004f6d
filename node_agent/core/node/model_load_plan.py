"""Choose whether vLLM loads a model from the disk or straight from S3, with the arguments for its command.

Straight from S3 (`--load-format runai_streamer`) the weights go through the CPU's memory into the GPU's and never to
the disk, which saves a new node the time of writing and reading them. It reads safetensors only, and their SHA-256 is
not compared; so a setting has to enable it, and everything else falls back to the disk, with the reason.

Source: vLLM's documentation, "Loading models with Run:ai Model Streamer". Not tried on a GPU yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from node_agent.contract.models import ModelFile, model_prefix

_STREAMER = ("--load-format", "runai_streamer")
_OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".gguf")


class ModelLoad(StrEnum):
    """The setting `model_load`."""

    DOWNLOAD = "download"
    STREAM = "stream"


@dataclass(frozen=True)
class LoadPlan:
    """How to load a model. model: for `vllm serve`, a folder or an s3:// address; arguments: added to it."""

    load: ModelLoad
    model: str
    arguments: tuple[str, ...]
    reason: str


def plan_load(
    wanted: ModelLoad, gpus: int, files: Sequence[ModelFile], bucket: str, name: str, folder: str
) -> LoadPlan:
    """Plan a load. gpus: of the machine; files: the manifest's; folder: the model's on the disk, now or later."""
    if wanted is ModelLoad.DOWNLOAD:
        return LoadPlan(ModelLoad.DOWNLOAD, folder, (), "model_load=download")
    if gpus == 0:
        return LoadPlan(ModelLoad.DOWNLOAD, folder, (), "streaming needs a GPU, and this machine has none")
    if not any(file.path.endswith(".safetensors") for file in files):
        return LoadPlan(ModelLoad.DOWNLOAD, folder, (), "the streamer reads safetensors, and the model has none")
    if other := [file.path for file in files if file.path.endswith(_OTHER_WEIGHTS)]:
        return LoadPlan(ModelLoad.DOWNLOAD, folder, (), f"the streamer reads safetensors only, and there is {other[0]}")
    address = f"s3://{bucket}/{model_prefix(name).rstrip('/')}"
    return LoadPlan(ModelLoad.STREAM, address, _STREAMER, "model_load=stream")
