"""The families of models whose memory is known here, by `model_type` in config.json.

Every line is compared with vLLM 0.32's own layers by `tests/contract/test_model_sizing.py`. What a config.json leaves
out has its family's default, as transformers fills it in. Other families are not computed: a wrong sum would stop every
node, and vLLM finds the length by itself (`--max-model-len auto`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto


class Attention(Enum):
    """Which layers keep the KV of a window only."""

    FULL = auto()
    """None, where the config does not say otherwise by `layer_types`."""

    UNIFORM = auto()
    """All of them, where there is a `sliding_window`."""

    LATER = auto()
    """Where `use_sliding_window` is true, those from `max_window_layers` on."""

    ALTERNATE = auto()
    """All but each second, or each `sliding_window_pattern`-th."""

    LATENT = auto()
    """None, and a token has one latent vector for all heads (MLA)."""


@dataclass(frozen=True)
class Family:
    """A family's defaults. window, pattern: of sliding attention; head_dim: None: hidden_size over heads."""

    attention: Attention = Attention.FULL
    window: int | None = None
    pattern: int = 2
    head_dim: int | None = None
    tied: bool = False
    float16: bool = True
    """False: vLLM refuses to compute it in float16 (config/model.py, _FLOAT16_NOT_SUPPORTED_MODELS)."""

    experts: str = ""
    """The field with the number of experts of a layer; "": a dense model."""

    expert_width: str = "moe_intermediate_size"
    own_max_length: int | None = None
    """`max_position_embeddings` where the config has none."""


FAMILIES = {
    "llama": Family(own_max_length=2_048),
    "mistral": Family(Attention.UNIFORM, window=4_096, own_max_length=131_072),
    "mixtral": Family(
        Attention.UNIFORM, experts="num_local_experts", expert_width="intermediate_size", own_max_length=131_072
    ),
    "qwen2": Family(Attention.LATER, window=4_096, own_max_length=32_768),
    "qwen3": Family(Attention.LATER, window=4_096, head_dim=128, own_max_length=32_768),
    "qwen3_moe": Family(experts="num_experts", own_max_length=32_768),
    "gemma": Family(head_dim=256, tied=True, own_max_length=8_192),
    "gemma2": Family(Attention.ALTERNATE, window=4_096, head_dim=256, tied=True, float16=False, own_max_length=8_192),
    "gemma3_text": Family(
        Attention.ALTERNATE, window=4_096, pattern=6, head_dim=256, tied=True, float16=False, own_max_length=131_072
    ),
    "phi3": Family(Attention.UNIFORM, own_max_length=4_096),
    "granite": Family(own_max_length=2_048),
    "olmo2": Family(own_max_length=2_048),
    "gpt_oss": Family(
        Attention.ALTERNATE,
        window=128,
        head_dim=64,
        experts="num_local_experts",
        expert_width="intermediate_size",
        own_max_length=131_072,
    ),
    "deepseek_v2": Family(Attention.LATENT, experts="n_routed_experts", own_max_length=2_048),
    "deepseek_v3": Family(Attention.LATENT, experts="n_routed_experts", own_max_length=4_096),
}
