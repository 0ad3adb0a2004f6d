"""Choose whether vLLM loads a model from the disk or straight from S3, with the arguments for its command.

Straight from S3 (`--load-format runai_streamer`) the weights go through the CPU's memory into the GPU's and never to
the disk, which saves a new node the time of writing and reading them. It reads safetensors only, and their SHA-256 is
not compared; so a setting has to enable it, and everything else falls back to the disk, with the reason.

The streamer's buffer is unlimited by default (as large as the model), which is more than an instance with 16 GB has. So
it gets a limit, unless the engine's arguments configure the streamer.

Sources: vLLM's documentation, "Loading models with Run:ai Model Streamer"; the streamer's "Environment Variables"
(RUNAI_STREAMER_MEMORY_LIMIT, by default -1, unlimited). Not tried on a GPU yet.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from node_agent.contract.models import ModelFile, model_prefix

_STREAMER = ("--load-format", "runai_streamer")
_STREAMER_OPTIONS = "--model-loader-extra-config"
_BUFFER_SHARE = 4
"""The buffer may be a fourth of the machine's memory: 4 GiB of 16, more than the largest tensor of common models."""

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


@dataclass(frozen=True)
class Machine:
    """What a load depends on. memory_bytes: of the machine itself, not of its GPUs; 0: not known."""

    gpus: int
    memory_bytes: int


def plan_load(
    wanted: ModelLoad,
    machine: Machine,
    files: Sequence[ModelFile],
    bucket: str,
    name: str,
    folder: str,
    engine_args: Sequence[str] = (),
) -> LoadPlan:
    """Plan a load.

    Args:
        wanted: the setting.
        machine: where the engine runs.
        files: the manifest's.
        bucket: the models bucket.
        name: the model's.
        folder: the model's on the disk, now or later.
        engine_args: the configured arguments of the engine.

    Returns:
        The plan, with the reason where it is not the wanted one.
    """
    if wanted is ModelLoad.DOWNLOAD:
        return LoadPlan(ModelLoad.DOWNLOAD, folder, (), "model_load=download")
    if machine.gpus == 0:
        return LoadPlan(ModelLoad.DOWNLOAD, folder, (), "streaming needs a GPU, and this machine has none")
    if not any(file.path.endswith(".safetensors") for file in files):
        return LoadPlan(ModelLoad.DOWNLOAD, folder, (), "the streamer reads safetensors, and the model has none")
    if other := [file.path for file in files if file.path.endswith(_OTHER_WEIGHTS)]:
        return LoadPlan(ModelLoad.DOWNLOAD, folder, (), f"the streamer reads safetensors only, and there is {other[0]}")
    address = f"s3://{bucket}/{model_prefix(name).rstrip('/')}"
    options = _streamer_options(machine, engine_args)
    return LoadPlan(ModelLoad.STREAM, address, (*_STREAMER, *options), "model_load=stream")


def _streamer_options(machine: Machine, engine_args: Sequence[str]) -> tuple[str, ...]:
    configured = any(each.partition("=")[0] == _STREAMER_OPTIONS for each in engine_args)
    if configured or machine.memory_bytes == 0:
        return ()
    return _STREAMER_OPTIONS, json.dumps({"memory_limit": machine.memory_bytes // _BUFFER_SHARE})
