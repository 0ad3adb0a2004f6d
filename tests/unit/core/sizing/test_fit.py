"""Test the sums by hand: what a model leaves on a GPU, and which context fits there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.core.sizing.engine_options import EngineOptions
from node_agent.core.sizing.fit import GIB, Fit, Verdict, fit_model, tensor_parallel_size
from node_agent.core.sizing.gpus import InstanceGpus, known_gpus
from node_agent.core.sizing.kv_memory import plan_kv
from node_agent.core.sizing.model_shape import KvLayers, ModelShape, read_shape
from tests.unit.core.sizing import models

KIB = 1024


def shape_of(config: models.Config) -> ModelShape:
    shape = read_shape(config)
    assert isinstance(shape, ModelShape)
    return shape


def gpus_of(instance_type: str) -> InstanceGpus:
    found = known_gpus(instance_type)
    assert isinstance(found, InstanceGpus)
    return found


def fit(config: models.Config, weights: int, instance_type: str, options: EngineOptions | None = None) -> Fit:
    return fit_model(shape_of(config), weights, gpus_of(instance_type), options or EngineOptions())


LLAMA = models.LLAMA_3_1_8B, models.WEIGHTS["llama"]
QWEN = models.QWEN_2_5_7B, models.WEIGHTS["qwen2"]
QWEN_AWQ = models.QWEN_2_5_7B_AWQ, models.WEIGHTS["qwen2-awq"]


def test_a_token_of_llama_takes_128_kib() -> None:
    # 32 layers x 8 heads x 128 values x (K and V) x 2 bytes.
    kv = plan_kv(shape_of(models.LLAMA_3_1_8B).kv, 1, 2, 2_048)
    assert kv.token_bytes == 32 * 8 * 128 * 2 * 2 == 128 * KIB
    assert kv.request_bytes(131_072) == 16 * GIB
    assert kv.request_bytes(17) == 2 * 16 * 128 * KIB, "whole blocks of 16 tokens"


def test_llama_on_an_l4_has_room_for_24_576_tokens() -> None:
    # 22,888 MiB x 0.985 x 0.92 = 20.3 GiB; less 15.0 of weights, 1.0 of activations, 1.25: 3.1 GiB of KV.
    found = fit(*LLAMA, "g6.xlarge")
    assert (found.verdict, found.context, found.tensor_parallel, found.dtype) == ("fits", 24_576, 1, "bfloat16")
    assert 3.0 * GIB < found.kv_bytes < 3.2 * GIB
    assert 1 <= found.streams < 1.1
    assert found.words == (
        "22.0 GiB of an L4 x 0.92 - 15.0 weights - 1.0 activations - 1.2 CUDA graphs and libraries"
        " = 3.1 GiB for the KV cache, 128 KiB a token: a context of 24,576 tokens"
    )


@pytest.mark.parametrize("model", [LLAMA, QWEN], ids=["Llama-3.1-8B", "Qwen2.5-7B"])
def test_a_t4_holds_neither_of_the_16_bit_models(model: tuple[models.Config, int]) -> None:
    found = fit(*model, "g4dn.xlarge")
    assert found.verdict is Verdict.REFUSED
    assert found.words.startswith("14.5 GiB of a T4 x 0.92 - 1")
    assert found.words.endswith("GiB for the KV cache: the model is too large")


def test_the_smallest_fleet_is_a_t4_with_a_quantized_qwen() -> None:
    # 28 layers x 4 heads x 128 x 2 x 2 bytes = 56 KiB; 13.4 - 5.2 - 1.1 - 1.25 = 5.8 GiB hold three times 32,768.
    found = fit(*QWEN_AWQ, "g4dn.xlarge")
    assert (found.verdict, found.context, found.dtype) == ("fits", 32_768, "float16")
    assert 3 < found.streams < 4
    assert found.words.endswith("56 KiB a token: a context of 32,768 tokens (the model's own length)")


def test_a_model_is_split_over_all_gpus_of_a_node() -> None:
    one, four = fit(*LLAMA, "g5.xlarge"), fit(*LLAMA, "g5.12xlarge")
    assert four.tensor_parallel == 4
    assert four.context == 131_072 > one.context
    assert "3.7 weights (1/4)" in four.words
    assert "32 KiB a token" in four.words


def test_a_model_is_split_as_far_as_its_heads_and_groups_allow() -> None:
    qwen = shape_of(models.QWEN_2_5_7B)  # 28 heads
    assert [tensor_parallel_size(qwen, gpus) for gpus in (1, 2, 4, 8)] == [1, 2, 4, 4]
    awq = shape_of(models.QWEN_2_5_7B_AWQ | {"num_attention_heads": 32})  # 18,944 / 8 is no multiple of a group of 128
    assert tensor_parallel_size(awq, 8) == 4
    moe = shape_of(models.QWEN_3_30B_A3B | {"quantization_config": models.AWQ})  # an expert's 768 / 4 neither
    assert tensor_parallel_size(moe, 8) == 2


def test_fewer_kv_heads_than_gpus_are_replicated() -> None:
    qwen = shape_of(models.QWEN_3_30B_A3B)  # 4 KV heads
    assert plan_kv(qwen.kv, 8, 2, 2_048).token_bytes == plan_kv(qwen.kv, 4, 2, 2_048).token_bytes == 24 * KIB


def test_latent_attention_is_on_every_gpu_whole() -> None:
    deepseek = shape_of(models.DEEPSEEK_V2_LITE)
    assert plan_kv(deepseek.kv, 8, 2, 2_048).token_bytes == 27 * (512 + 64) * 2


def test_layers_with_a_window_need_its_tokens_only() -> None:
    gemma = plan_kv(shape_of(models.GEMMA_3_1B).kv, 1, 2, 2_048)
    # 4 layers with all tokens, 22 with 512: groups of 4 layers, 1 and 6.
    assert (gemma.full_groups, gemma.window_groups, gemma.block_bytes) == (1, 6, 4 * 16 * 512 * 2)
    windowed = (512 - 1 + 2 * 2_048 + 15) // 16 + 1
    assert gemma.request_bytes(32_768) == gemma.block_bytes * (2_048 + 6 * windowed)


def test_one_kind_of_layers_is_padded_to_the_other_where_they_are_nearly_as_many() -> None:
    kinds = (KvLayers(13, 8, 128, None), KvLayers(12, 8, 128, 128))
    kv = plan_kv(kinds, 1, 2, 2_048)
    assert (kv.full_groups, kv.window_groups, kv.block_bytes) == (1, 1, 13 * 16 * 8 * 128 * 2)


def test_an_fp8_cache_doubles_the_context() -> None:
    assert fit(*LLAMA, "g6.xlarge", EngineOptions(kv_bytes=1)).context == 2 * 24_576 + 1_024


def test_a_length_that_an_operator_sets_has_to_fit() -> None:
    fits = fit(*LLAMA, "g6.xlarge", EngineOptions(max_length=16_000, sets_length=True))
    assert (fits.verdict, fits.context) == ("fits", 16_000)
    refused = fit(*LLAMA, "g6.xlarge", EngineOptions(max_length=131_072, sets_length=True))
    assert refused.verdict is Verdict.REFUSED
    assert refused.words.endswith("tokens, and --max-model-len is 131,072")


@pytest.mark.parametrize(
    ("config", "instance_type", "options", "why"),
    [
        (models.GEMMA_3_1B, "g4dn.xlarge", {}, "a T4 has no bfloat16, and vLLM does not compute gemma3_text"),
        (models.GEMMA_3_1B, "g6.xlarge", {"dtype": "float16"}, "vLLM does not compute gemma3_text in float16"),
        (models.LLAMA_3_1_8B, "g4dn.xlarge", {"dtype": "bfloat16"}, "a T4 has no bfloat16, which --dtype asks for"),
        (models.GPT_OSS_20B, "g4dn.xlarge", {}, "a T4 cannot compute mxfp4 weights"),
        (models.LLAMA_3_1_8B, "g5.12xlarge", {"tensor_parallel": 8}, "it has 4 GPUs, and --tensor-parallel-size is 8"),
        (models.QWEN_2_5_7B, "g5.48xlarge", {"tensor_parallel": 8}, "--tensor-parallel-size 8 does not divide"),
        (models.GEMMA_2_9B, "g5.xlarge", {}, "less than the 1,024 that make sense"),
    ],
)  # fmt: skip
def test_what_does_not_run_is_refused_with_its_reason(
    config: models.Config, instance_type: str, options: dict[str, object], why: str
) -> None:
    shape = shape_of(config)
    found = fit_model(shape, 2 * shape.parameters, gpus_of(instance_type), EngineOptions(**options))  # type: ignore[arg-type]
    assert found.verdict is Verdict.REFUSED
    assert why in found.words


def test_float32_weights_take_twice_the_memory_where_they_are_asked_for() -> None:
    half = fit(*LLAMA, "g6e.xlarge").kv_bytes
    assert half - fit(*LLAMA, "g6e.xlarge", EngineOptions(dtype="float32", sets_dtype=True)).kv_bytes == LLAMA[1]


@given(
    kinds=st.lists(
        st.builds(KvLayers, st.integers(1, 80), st.just(8), st.just(256), st.sampled_from([None, 128, 4096])),
        min_size=1, max_size=2, unique_by=lambda kind: kind.window is None,
    ),
    room=st.integers(0, 2**36), most=st.integers(1, 2**20),
)  # fmt: skip
def test_the_longest_context_fits_and_a_longer_one_does_not(kinds: list[KvLayers], room: int, most: int) -> None:
    kv = plan_kv(kinds, 1, 2, 2_048)
    tokens = kv.max_tokens(room, most)
    assert 0 <= tokens <= most
    assert tokens == 0 or kv.request_bytes(tokens) <= room - kv.block_bytes
    assert tokens == most or kv.request_bytes(tokens + 1) > room - kv.block_bytes


@pytest.mark.parametrize("name", models.PUBLIC_MODELS)
def test_every_public_model_gets_an_answer_on_every_type(name: str) -> None:
    shape = shape_of(models.PUBLIC_MODELS[name])
    for instance_type in ("g4dn.xlarge", "g6.xlarge", "g6e.12xlarge", "p5.48xlarge"):
        found = fit_model(shape, 2 * shape.parameters, gpus_of(instance_type), EngineOptions())
        assert (found.verdict is Verdict.FITS) == (found.context > 0 and found.streams >= 1)
