"""Test what is read from outside: config.json, sizes of weights, engine arguments, EC2's descriptions of types."""

from __future__ import annotations

import contextlib
import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

import moto
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.core.sizing.engine_options import EngineOptions, read_options
from node_agent.core.sizing.gpus import KNOWN_TYPES, InstanceGpus, Unusable, describe_gpus, known_gpus
from node_agent.core.sizing.model_shape import ModelShape, Unsized, read_shape
from node_agent.core.sizing.weights import WeightSizes, loaded_bytes
from tests.unit.core.sizing import models

BROKEN: list[tuple[dict[str, Any], str]] = [
    ({"model_type": None}, "config.json lacks model_type"),
    ({"model_type": 7}, "config.json has model_type=7, which is no text"),
    ({"hidden_size": None}, "config.json lacks hidden_size"),
    ({"hidden_size": "4096"}, "config.json has hidden_size='4096', which is no number of at least 1"),
    ({"num_hidden_layers": 0}, "config.json has num_hidden_layers=0, which is no number"),
    ({"num_hidden_layers": 10**9}, "more than any model"),
    ({"num_attention_heads": True}, "config.json has num_attention_heads=True"),
    ({"num_key_value_heads": 5}, "num_attention_heads=32, which is no multiple of num_key_value_heads=5"),
    ({"num_attention_heads": 24}, "hidden_size=4096, which is no multiple of num_attention_heads=24"),
    ({"vocab_size": -1}, "config.json has vocab_size=-1"),
    ({"torch_dtype": "int3"}, "config.json has torch_dtype='int3'"),
    ({"rope_scaling": [8]}, "config.json has rope_scaling=[8], which is no object"),
    ({"rope_scaling": {"rope_type": "linear", "factor": -2.0}}, "rope_scaling whose factor gives no context length"),
    ({"layer_types": ["full_attention"], "sliding_window": 5}, "num_hidden_layers=32, and layer_types names 1"),
    ({"layer_types": "full"}, "layer_types that are no list"),
    ({"quantization_config": {"bits": 4}}, "a quantization_config without quant_method"),
    ({"quantization_config": {"quant_method": "bitsandbytes"}}, "quant_method='bitsandbytes', which vLLM 0.32 does"),
    ({"quantization_config": {"quant_method": "awq"}}, "config.json lacks w_bit"),
]


@pytest.mark.parametrize(("change", "fault"), BROKEN, ids=[fault[-30:] for _, fault in BROKEN])
def test_a_config_that_lacks_or_contradicts_is_named(change: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValueError, match=r"config\.json has|config\.json lacks") as raised:
        read_shape(models.LLAMA_3_1_8B | change)
    assert fault in str(raised.value)


ODD: list[Any] = [
    None, True, 0, -1, 7, 2**70, 0.5, float("inf"), float("nan"), "", "x", [], [[]], {}, {"rope_type": 3},
    {"factor": None}, {"quant_method": []}, {"quant_method": "gptq", "bits": "4"}, {"Gpus": 3}, {"Gpus": [{}]},
    {"Gpus": [{"Manufacturer": "NVIDIA", "Name": "L4", "MemoryInfo": []}]},
]  # fmt: skip
FIELDS = sorted({key for each in models.PUBLIC_MODELS.values() for key in each})


@given(
    base=st.sampled_from(list(models.PUBLIC_MODELS.values())),
    changes=st.dictionaries(st.sampled_from(FIELDS), st.sampled_from(ODD), max_size=3),
)
def test_no_config_raises_anything_but_a_value_error(base: models.Config, changes: dict[str, Any]) -> None:
    with contextlib.suppress(ValueError):
        assert isinstance(read_shape(base | changes), ModelShape | Unsized)


@pytest.mark.parametrize("document", ODD, ids=repr)
def test_what_is_no_config_is_said_to_be_none(document: object) -> None:
    with pytest.raises(ValueError, match=r"config\.json (is no|lacks)"):
        read_shape(document)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model_type": "qwen3_next"}, "the memory of qwen3_next is not known here"),
        ({"vision_config": {}}, "llama takes more than text (vision_config)"),
        ({"layer_types": ["linear_attention"] * 32}, "layers of a kind that is not known here"),
        ({"index_topk": 2048}, "sparse attention"),
    ],
)
def test_what_is_not_computed_has_its_reason(change: dict[str, Any], reason: str) -> None:
    found = read_shape(models.LLAMA_3_1_8B | change)
    assert isinstance(found, Unsized)
    assert reason in found.reason


@pytest.mark.parametrize(
    ("change", "length"),
    [
        ({}, 131_072),
        ({"max_position_embeddings": None}, 2_048),
        ({"rope_scaling": {"rope_type": "linear", "factor": 4.0}, "max_position_embeddings": 4_096}, 16_384),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}, "max_position_embeddings": 4_096}, 8_192),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}, "max_position_embeddings": 32_768}, 32_768),
        ({"seq_length": 1_000}, 1_000),
        ({"model_max_length": 64_000}, 64_000),
    ],
)
def test_the_length_is_the_one_that_vllm_derives(change: dict[str, Any], length: int) -> None:
    found = read_shape(models.LLAMA_3_1_8B | change)
    assert isinstance(found, ModelShape)
    assert found.max_length == length


def shape_of(config: models.Config) -> ModelShape:
    found = read_shape(config)
    assert isinstance(found, ModelShape)
    return found


SHARDS = {"model-00001-of-00002.safetensors": 10 * 2**30, "model-00002-of-00002.safetensors": 5 * 2**30}
MAP = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}


@pytest.mark.parametrize(
    ("sizes", "total"),
    [
        (WeightSizes(SHARDS), 15 * 2**30),
        (WeightSizes({**SHARDS, "consolidated.safetensors": 99, "original/x.safetensors": 9}), 15 * 2**30),
        (WeightSizes({**SHARDS, "extra.safetensors": 99}, MAP), 15 * 2**30),
        (WeightSizes({}, {**MAP, "metadata": {"total_size": 7.0}}), 7),
        (WeightSizes({}, {**MAP, "metadata": {"total_size": "7"}}), None),
        (WeightSizes({"config.json": 1}), None),
        (WeightSizes({"pytorch_model.bin": 12}), 12),
        (WeightSizes({}, [1]), None),
    ],
)
def test_the_size_is_that_of_the_files_which_vllm_loads(sizes: WeightSizes, total: int | None) -> None:
    assert sizes.total() == total


def test_weights_in_32_bits_are_computed_in_16() -> None:
    assert loaded_bytes(shape_of(models.LLAMA_3_1_8B), 2 * 16_060_522_240) == 16_060_522_240
    assert loaded_bytes(shape_of(models.LLAMA_3_1_8B | {"torch_dtype": "float32"}), 16_060_522_240) == 16_060_522_240


def test_unknown_weights_are_estimated() -> None:
    estimate = loaded_bytes(shape_of(models.LLAMA_3_1_8B), None)
    assert abs(estimate / 16_060_522_240 - 1) < 0.001
    awq = loaded_bytes(shape_of(models.QWEN_2_5_7B_AWQ), None)
    assert abs(awq / 5_570_000_000 - 1) < 0.01
    other = models.QWEN_3_8B | {"quantization_config": {"quant_method": "compressed-tensors"}}
    with pytest.raises(ValueError, match="neither the weights' files nor their index are there"):
        loaded_bytes(shape_of(other), None)


@pytest.mark.parametrize("size", [2 * 10**9, 10**11])
def test_a_config_of_another_model_is_found(size: int) -> None:
    with pytest.raises(ValueError, match=r"describes 8\.0 billion parameters, 15\.0 GiB .* not the config\.json of"):
        loaded_bytes(shape_of(models.LLAMA_3_1_8B), size)


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ((), EngineOptions()),
        (("--max-model-len", "16k"), EngineOptions(max_length=16_000, sets_length=True)),
        (("--max-model-len=16K",), EngineOptions(max_length=16_384, sets_length=True)),
        (("--max-model-len", "auto"), EngineOptions(sets_length=True)),
        (("--max-model-len", "-1"), EngineOptions(sets_length=True)),
        (("--max_model_len", "8192"), EngineOptions(max_length=8_192, sets_length=True)),
        (("-tp", "2", "--gpu-memory-utilization", "0.8"), EngineOptions(0.8, tensor_parallel=2)),
        (("--dtype", "half"), EngineOptions(dtype="float16", sets_dtype=True)),
        (("--kv-cache-dtype", "fp8"), EngineOptions(kv_bytes=1)),
        (("--kv-cache-dtype", "nvfp4"), EngineOptions(unsized="--kv-cache-dtype nvfp4")),
        (("--trust-remote-code", "--seed", "1"), EngineOptions(trusts_code=True)),
        (("--enable-lora",), EngineOptions(unsized="--enable-lora")),
        (("--load-format", "fastsafetensors"), EngineOptions()),
        (("--max-num-seqs", "8", "--max-num-seqs", "9"), EngineOptions(sequences=9)),
    ],
)
def test_the_options_that_change_the_memory(arguments: tuple[str, ...], options: EngineOptions) -> None:
    assert read_options(arguments) == options


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (("--max-model-len",), "engine_args has --max-model-len without a value"),
        (("--max-model-len", "--dtype"), "engine_args has --max-model-len without a value"),
        (("--max-model-len", "long"), "engine_args has --max-model-len long: must be a number of at least 1"),
        (("--gpu-memory-utilization", "92"), "engine_args has --gpu-memory-utilization 92: must be more than 0"),
        (("--dtype", "int8"), "engine_args has --dtype int8: must be one of auto, half"),
    ],
)
def test_a_value_that_vllm_cannot_read_is_named(arguments: tuple[str, ...], fault: str) -> None:
    with pytest.raises(ValueError, match="engine_args") as raised:
        read_options(arguments)
    assert fault in str(raised.value)


@given(st.lists(st.text(max_size=8) | st.sampled_from(["--dtype", "--max-model-len", "-tp", "--q", "1e9", "-1"])))
def test_no_arguments_raise_anything_but_a_value_error(arguments: list[str]) -> None:
    with contextlib.suppress(ValueError):
        assert isinstance(read_options(arguments), EngineOptions)


@cache
def described_types() -> dict[str, Any]:
    """EC2's descriptions of its types, as moto copied them."""
    path = Path(moto.__file__).parent / "ec2" / "resources" / "instance_types.json.gz"
    found: dict[str, Any] = json.loads(gzip.decompress(path.read_bytes()))
    return found


def test_the_table_agrees_with_ec2() -> None:
    described = described_types()
    assert len(KNOWN_TYPES) > 40
    for name in KNOWN_TYPES:
        assert known_gpus(name) == describe_gpus(described[name]), name


@pytest.mark.parametrize(
    ("instance_type", "why"),
    [
        ("m7i.large", "has no NVIDIA GPU"),
        ("g5g.xlarge", "is arm64, and nodes are x86_64"),
        ("g6f.xlarge", "has a fraction of a GPU (L4)"),
        ("p3dn.24xlarge", "has GPUs (V100) that CUDA 13 does not run"),
    ],
)
def test_a_type_that_cannot_run_a_node_is_refused(instance_type: str, why: str) -> None:
    found = describe_gpus(described_types()[instance_type])
    assert isinstance(found, Unusable)
    assert why in found.reason


def test_a_gpu_that_is_not_known_has_less_memory_than_it_says() -> None:
    found = describe_gpus(described_types()["g7.2xlarge"])
    assert isinstance(found, InstanceGpus)
    assert (found.gpu.name, found.gpu.memory_bytes, found.gpu.capability) == (
        "RTX PRO 4500",
        int(32_768 * 2**20 * 0.9),
        None,
    )
    assert known_gpus("g7.2xlarge") is None


@pytest.mark.parametrize("described", ODD, ids=repr)
def test_no_description_raises(described: object) -> None:
    for document in ({"GpuInfo": described}, {"GpuInfo": {"Gpus": described}}, {"ProcessorInfo": described}):
        assert isinstance(describe_gpus(document), Unusable)
