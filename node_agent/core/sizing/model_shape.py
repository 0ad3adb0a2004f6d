"""Read what a model's memory is made of from its config.json, as vLLM 0.32 reads it.

A config.json comes from outside. One that contradicts itself, or lacks what its family needs, is a ValueError with the
field's name; a model that is not computed here is an `Unsized`, with what is known of it and why.

Source: vLLM's transformers_utils/model_arch_config_convertor.py (heads, lengths), config/model.py
(_get_and_verify_max_len), the attention layers of its models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from node_agent.core.sizing.families import FAMILIES, Attention, Family
from node_agent.core.sizing.fields import Config, count, count_or_zero, flag, section, text
from node_agent.core.sizing.quantization import Quantization, read_quantization

_LENGTH_FIELDS = (
    "max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_target_positions",
    "max_sequence_length", "max_seq_length", "seq_len",
)  # fmt: skip
_SCALED_ALREADY = ("default", "su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling")
_TYPES = {"bfloat16": 2, "float16": 2, "float32": 4}
MAX_LAYERS = 10_000


@dataclass(frozen=True)
class KvLayers:
    """Layers that keep the same KV. heads: of which each has head_values values a token (K and V together)."""

    layers: int
    heads: int
    head_values: int
    window: int | None
    """Tokens that a layer keeps; None: all."""

    def values(self, tensor_parallel: int) -> int:
        """Return the values a token that one layer keeps on one GPU; fewer heads than GPUs are replicated."""
        return max(1, self.heads // tensor_parallel) * self.head_values


@dataclass(frozen=True)
class ModelShape:
    """A model whose memory is known. dtype: the config's; hidden: the width of a layer's input and output."""

    model_type: str
    dtype: str
    float16: bool
    hidden: int
    width: int
    """Of the widest activation between a layer's matrices, all experts of a token together."""

    matrix_widths: tuple[int, ...]
    """Of the matrices that several GPUs share: of an expert, of a dense layer."""

    heads: int
    kv_heads: int
    vocabulary: int
    kv: tuple[KvLayers, ...]
    max_length: int
    """Tokens: the context length that vLLM chooses where none is given and memory does not matter."""

    parameters: int
    """Of the whole model, embeddings included: an estimate without biases and norms."""

    embeddings: int
    """The parameters of the embeddings and the output layer, which quantization leaves alone."""

    quantization: Quantization | None


@dataclass(frozen=True)
class Unsized:
    """A model that is not computed here. reason: a sentence; needs_code: it has Python code of its own."""

    reason: str
    needs_code: bool = False


def read_shape(config: object) -> ModelShape | Unsized:
    """Read a parsed config.json. Raises ValueError where it lacks a field, or contradicts itself."""
    if not isinstance(config, dict):
        raise ValueError("config.json is no JSON object")
    model_type = text(config, "model_type")
    if not model_type:
        raise ValueError("config.json lacks model_type: it is no config.json of a model that vLLM loads")
    if (unsized := _unsized(config, model_type)) is not None:
        return unsized
    return _shape(config, model_type, FAMILIES[model_type])


def _unsized(config: Config, model_type: str) -> Unsized | None:
    """Return why a model is not computed here; None where it is."""
    images = [name for name in ("vision_config", "audio_config", "encoder") if config.get(name) is not None]
    if images:
        return Unsized(f"{model_type} takes more than text ({images[0]}), whose memory is not known here")
    if model_type not in FAMILIES:
        code = section(config, "auto_map") is not None
        return Unsized(f"the memory of {model_type} is not known here", needs_code=code)
    if any(kind not in ("full_attention", "sliding_attention") for kind in _layer_types(config) or ()):
        return Unsized(f"this {model_type} has layers of a kind that is not known here")
    if config.get("index_topk") is not None:
        return Unsized(f"this {model_type} has sparse attention, whose memory is not known here")
    return None


def _shape(config: Config, model_type: str, family: Family) -> ModelShape:
    hidden, heads = count(config, "hidden_size"), count(config, "num_attention_heads")
    layers = count(config, "num_hidden_layers")
    if layers > MAX_LAYERS:
        raise ValueError(f"config.json has num_hidden_layers={layers}, more than any model")
    vocabulary = count(config, "vocab_size")
    kv = _kv_layers(config, family, hidden, heads, layers)
    tied = flag(config, "tie_word_embeddings", default=family.tied)
    embeddings = vocabulary * hidden * (1 if tied else 2)
    widths = _matrix_widths(config, family)
    experts_at_once = count(config, "num_experts_per_tok", 2) if family.experts else 1
    return ModelShape(
        model_type=model_type,
        dtype=_dtype(config),
        float16=family.float16,
        hidden=hidden,
        width=max(widths[0] * experts_at_once, *widths),
        matrix_widths=widths,
        heads=heads,
        kv_heads=kv[0].heads,
        vocabulary=vocabulary,
        kv=kv,
        max_length=_max_length(config, model_type, family),
        parameters=embeddings + sum(_layer_parameters(config, family, kv[0], n) for n in range(layers)),
        embeddings=embeddings,
        quantization=read_quantization(config),
    )


def _dtype(config: Config) -> str:
    found = text(config, "dtype") or text(config, "torch_dtype") or "float32"
    if found not in _TYPES:
        raise ValueError(f"config.json has torch_dtype={found!r}, which is none of {', '.join(_TYPES)}")
    return found


def _kv_layers(config: Config, family: Family, hidden: int, heads: int, layers: int) -> tuple[KvLayers, ...]:
    """Return the kinds of layers; the one with all tokens first."""
    if family.attention is Attention.LATENT:
        # One latent vector for all heads, on every GPU. V is computed from it.
        return (KvLayers(layers, 1, count(config, "kv_lora_rank") + count(config, "qk_rope_head_dim"), None),)
    kv_heads = count(config, "num_key_value_heads", heads)
    if heads % kv_heads:
        raise ValueError(
            f"config.json has num_attention_heads={heads}, which is no multiple of num_key_value_heads={kv_heads}"
        )
    if family.head_dim is None and config.get("head_dim") is None and hidden % heads:
        raise ValueError(f"config.json has hidden_size={hidden}, which is no multiple of num_attention_heads={heads}")
    values = 2 * count(config, "head_dim", family.head_dim or hidden // heads)
    window, sliding = _sliding_layers(config, family, layers)
    kinds = (
        KvLayers(layers - sliding, kv_heads, values, None),
        KvLayers(sliding, kv_heads, values, window),
    )
    return tuple(kind for kind in kinds if kind.layers)


def _sliding_layers(config: Config, family: Family, layers: int) -> tuple[int | None, int]:
    """Return the window, and the number of layers that have it."""
    window = config.get("sliding_window", family.window)  # null: none, and not the default
    if not window:
        return None, 0
    window = count({"sliding_window": window}, "sliding_window")
    if (types := _layer_types(config)) is not None:
        if len(types) != layers:
            raise ValueError(f"config.json has num_hidden_layers={layers}, and layer_types names {len(types)}")
        return window, sum(kind == "sliding_attention" for kind in types)
    if family.attention is Attention.UNIFORM:
        return window, layers
    if family.attention is Attention.LATER:
        used = flag(config, "use_sliding_window", default=False)
        return window, max(0, layers - count_or_zero(config, "max_window_layers", 28)) if used else 0
    if family.attention is Attention.ALTERNATE:
        pattern = count(config, "sliding_window_pattern", family.pattern)
        return window, sum(bool((number + 1) % pattern) for number in range(layers))
    return None, 0


def _layer_types(config: Config) -> list[Any] | None:
    types = config.get("layer_types")
    if types is not None and not isinstance(types, list):
        raise ValueError("config.json has layer_types that are no list")
    return types


def _matrix_widths(config: Config, family: Family) -> tuple[int, ...]:
    """Return the widths between a layer's matrices: an expert's first, then a dense layer's, where there is one."""
    if not family.experts or family.expert_width == "intermediate_size":
        return (count(config, "intermediate_size"),)
    expert = count(config, family.expert_width)
    return (expert, count(config, "intermediate_size")) if count_or_zero(config, "first_k_dense_replace") else (expert,)


def _layer_parameters(config: Config, family: Family, kv: KvLayers, number: int) -> int:
    """Return the parameters of layer `number`, without biases and norms."""
    hidden, heads = count(config, "hidden_size"), count(config, "num_attention_heads")
    if family.attention is Attention.LATENT:
        attention = _latent_parameters(config, hidden, heads)
    else:
        head = kv.head_values // 2
        attention = hidden * head * (2 * heads + 2 * kv.heads)
    dense_layers = count_or_zero(config, "first_k_dense_replace")
    if not family.experts or number < dense_layers:
        return attention + 3 * hidden * count(config, "intermediate_size")
    experts, width = count(config, family.experts), count(config, family.expert_width)
    shared = count_or_zero(config, "n_shared_experts")
    return attention + 3 * hidden * width * (experts + shared) + hidden * experts


def _latent_parameters(config: Config, hidden: int, heads: int) -> int:
    rope, nope, rank = (
        count(config, "qk_rope_head_dim"),
        count(config, "qk_nope_head_dim"),
        count(config, "kv_lora_rank"),
    )
    value, q_rank = count(config, "v_head_dim"), count_or_zero(config, "q_lora_rank")
    query = q_rank * (hidden + heads * (nope + rope)) if q_rank else hidden * heads * (nope + rope)
    return query + hidden * (rank + rope) + rank * heads * (nope + value) + heads * value * hidden


def _max_length(config: Config, model_type: str, family: Family) -> int:
    """Return the length that vLLM derives where it is given none, in tokens."""
    given = [count(config, name) for name in _LENGTH_FIELDS if config.get(name) is not None]
    length: float = min(given) if given else family.own_max_length or 2_048
    if config.get("model_max_length") is not None:
        length = count(config, "model_max_length")
    rope = section(config, "rope_parameters") or section(config, "rope_scaling") or {}
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "longrope":
        return min(int(length), count(config, "original_max_position_embeddings", int(length)))
    factor = rope.get("factor")
    if kind not in _SCALED_ALREADY and "gemma3" not in model_type and isinstance(factor, int | float):
        length *= factor
    if not 1 <= length < 2**40:
        raise ValueError("config.json has a rope_scaling whose factor gives no context length")
    return int(length)
