"""Public models, as their config.json and their files describe them: facts, written down by hand."""

from __future__ import annotations

from typing import Any

Config = dict[str, Any]


def _model(architecture: str, model_type: str, shape: tuple[int, int, int, int, int, int], **more: Any) -> Config:
    """shape: hidden size, layers, heads, KV heads, intermediate size, vocabulary."""
    hidden, layers, heads, kv_heads, width, vocabulary = shape
    return {
        "architectures": [architecture],
        "model_type": model_type,
        "torch_dtype": "bfloat16",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": width,
        "vocab_size": vocabulary,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        **more,
    }


AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm", "zero_point": True}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True}
FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128], "fmt": "e4m3"}

LLAMA_3_1_8B = _model(
    "LlamaForCausalLM",
    "llama",
    (4096, 32, 32, 8, 14336, 128256),
    max_position_embeddings=131072,
    rope_theta=500000.0,
    rope_scaling={
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    tie_word_embeddings=False,
)
LLAMA_3_1_70B = {
    **LLAMA_3_1_8B,
    "hidden_size": 8192,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "intermediate_size": 28672,
}
QWEN_2_5_7B = _model(
    "Qwen2ForCausalLM",
    "qwen2",
    (3584, 28, 28, 4, 18944, 152064),
    max_position_embeddings=32768,
    rope_theta=1000000.0,
    sliding_window=131072,
    use_sliding_window=False,
    max_window_layers=28,
    tie_word_embeddings=False,
)
QWEN_2_5_7B_AWQ = {**QWEN_2_5_7B, "torch_dtype": "float16", "quantization_config": AWQ}
QWEN_2_5_7B_GPTQ = {**QWEN_2_5_7B, "torch_dtype": "float16", "quantization_config": GPTQ}
QWEN_3_8B = _model(
    "Qwen3ForCausalLM",
    "qwen3",
    (4096, 36, 32, 8, 12288, 151936),
    head_dim=128,
    max_position_embeddings=40960,
    rope_theta=1000000,
    sliding_window=None,
    use_sliding_window=False,
    max_window_layers=36,
    tie_word_embeddings=False,
)
QWEN_3_8B_FP8 = {**QWEN_3_8B, "quantization_config": FP8}
QWEN_3_30B_A3B = _model(
    "Qwen3MoeForCausalLM",
    "qwen3_moe",
    (2048, 48, 32, 4, 6144, 151936),
    head_dim=128,
    max_position_embeddings=40960,
    num_experts=128,
    num_experts_per_tok=8,
    moe_intermediate_size=768,
    decoder_sparse_step=1,
    mlp_only_layers=[],
    norm_topk_prob=True,
    sliding_window=None,
    use_sliding_window=False,
    tie_word_embeddings=False,
)
MISTRAL_7B_V01 = _model(
    "MistralForCausalLM",
    "mistral",
    (4096, 32, 32, 8, 14336, 32000),
    max_position_embeddings=32768,
    sliding_window=4096,
    rope_theta=10000.0,
    tie_word_embeddings=False,
)
MIXTRAL_8X7B = _model(
    "MixtralForCausalLM",
    "mixtral",
    (4096, 32, 32, 8, 14336, 32000),
    max_position_embeddings=32768,
    num_local_experts=8,
    num_experts_per_tok=2,
    sliding_window=None,
    tie_word_embeddings=False,
)
GEMMA_7B = _model(
    "GemmaForCausalLM",
    "gemma",
    (3072, 28, 16, 16, 24576, 256000),
    head_dim=256,
    max_position_embeddings=8192,
    hidden_activation="gelu_pytorch_tanh",
)
GEMMA_2_9B = _model(
    "Gemma2ForCausalLM",
    "gemma2",
    (3584, 42, 16, 8, 14336, 256000),
    head_dim=256,
    max_position_embeddings=8192,
    sliding_window=4096,
    query_pre_attn_scalar=256,
    attn_logit_softcapping=50.0,
    final_logit_softcapping=30.0,
    hidden_activation="gelu_pytorch_tanh",
)
GEMMA_3_1B = _model(
    "Gemma3ForCausalLM",
    "gemma3_text",
    (1152, 26, 4, 1, 6912, 262144),
    head_dim=256,
    max_position_embeddings=32768,
    sliding_window=512,
    sliding_window_pattern=6,
    query_pre_attn_scalar=256,
    rope_local_base_freq=10000,
    rope_theta=1000000,
    hidden_activation="gelu_pytorch_tanh",
)
PHI_3_MINI_4K = _model(
    "Phi3ForCausalLM",
    "phi3",
    (3072, 32, 32, 32, 8192, 32064),
    max_position_embeddings=4096,
    original_max_position_embeddings=4096,
    sliding_window=2047,
    tie_word_embeddings=False,
    auto_map={"AutoConfig": "configuration_phi3.Phi3Config", "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM"},
    pad_token_id=32000,
)
PHI_3_MINI_128K = {
    **PHI_3_MINI_4K,
    "max_position_embeddings": 131072,
    "sliding_window": 262144,
    "rope_scaling": {"type": "longrope", "long_factor": [1.0] * 48, "short_factor": [1.0] * 48},
}
GRANITE_3_8B = _model(
    "GraniteForCausalLM",
    "granite",
    (4096, 40, 32, 8, 12800, 49155),
    max_position_embeddings=131072,
    attention_multiplier=0.0078125,
    embedding_multiplier=12.0,
    logits_scaling=16.0,
    residual_multiplier=0.22,
    tie_word_embeddings=True,
)
OLMO_2_7B = _model(
    "Olmo2ForCausalLM",
    "olmo2",
    (4096, 32, 32, 32, 11008, 100352),
    max_position_embeddings=4096,
    tie_word_embeddings=False,
)
GPT_OSS_20B = _model(
    "GptOssForCausalLM",
    "gpt_oss",
    (2880, 24, 64, 8, 2880, 201088),
    head_dim=64,
    max_position_embeddings=131072,
    num_local_experts=32,
    num_experts_per_tok=4,
    sliding_window=128,
    layer_types=["sliding_attention", "full_attention"] * 12,
    rope_scaling={
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "factor": 32.0,
        "original_max_position_embeddings": 4096,
        "rope_type": "yarn",
        "truncate": False,
    },
    rope_theta=150000,
    tie_word_embeddings=False,
    quantization_config={
        "quant_method": "mxfp4",
        "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router", "lm_head"],
    },
)
DEEPSEEK_V2_LITE = _model(
    "DeepseekV2ForCausalLM",
    "deepseek_v2",
    (2048, 27, 16, 16, 10944, 102400),
    max_position_embeddings=163840,
    kv_lora_rank=512,
    q_lora_rank=None,
    qk_nope_head_dim=128,
    qk_rope_head_dim=64,
    v_head_dim=128,
    n_routed_experts=64,
    n_shared_experts=2,
    num_experts_per_tok=6,
    moe_intermediate_size=1408,
    first_k_dense_replace=1,
    moe_layer_freq=1,
    n_group=1,
    topk_group=1,
    topk_method="greedy",
    scoring_func="softmax",
    norm_topk_prob=False,
    routed_scaling_factor=1.0,
    rope_theta=10000,
    rope_scaling={
        "beta_fast": 32,
        "beta_slow": 1,
        "factor": 40,
        "mscale": 0.707,
        "mscale_all_dim": 0.707,
        "original_max_position_embeddings": 4096,
        "type": "yarn",
    },
    tie_word_embeddings=False,
)

WEIGHTS = {
    "llama": 16_060_522_240,
    "qwen2": 15_231_233_024,
    "qwen2-awq": 5_570_000_000,
}
"""Bytes: total_size of the index of Llama-3.1-8B-Instruct and of Qwen2.5-7B-Instruct; the AWQ files, rounded."""

PUBLIC_MODELS: dict[str, Config] = {
    "Llama-3.1-8B": LLAMA_3_1_8B,
    "Qwen2.5-7B": QWEN_2_5_7B,
    "Qwen2.5-7B-AWQ": QWEN_2_5_7B_AWQ,
    "Qwen2.5-7B-GPTQ": QWEN_2_5_7B_GPTQ,
    "Qwen3-8B": QWEN_3_8B,
    "Qwen3-8B-FP8": QWEN_3_8B_FP8,
    "Qwen3-30B-A3B": QWEN_3_30B_A3B,
    "Mistral-7B-v0.1": MISTRAL_7B_V01,
    "Mixtral-8x7B": MIXTRAL_8X7B,
    "Gemma-7B": GEMMA_7B,
    "Gemma-2-9B": GEMMA_2_9B,
    "Gemma-3-1B": GEMMA_3_1B,
    "Phi-3-mini-4k": PHI_3_MINI_4K,
    "Phi-3-mini-128k": PHI_3_MINI_128K,
    "Granite-3-8B": GRANITE_3_8B,
    "OLMo-2-7B": OLMO_2_7B,
    "gpt-oss-20b": GPT_OSS_20B,
    "DeepSeek-V2-Lite": DEEPSEEK_V2_LITE,
}
