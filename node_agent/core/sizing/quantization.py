"""Read how a model's weights are quantized, and which GPUs compute with them.

Source: the configurations in vLLM 0.32's model_executor/layers/quantization (get_min_capability, group sizes).
"""

from __future__ import annotations

from dataclasses import dataclass

from node_agent.core.sizing.fields import Config, count, section, text

_MIN_CAPABILITY = {
    "awq": 75, "gptq": 75, "fp8": 75, "compressed-tensors": 75, "modelopt": 80, "modelopt_fp4": 75, "mxfp4": 80,
    "fbgemm_fp8": 80, "experts_int8": 80, "torchao": 75, "quark": 75, "inc": 75, "auto-round": 75,
}  # fmt: skip
"""By method. 75 also where vLLM names less: CUDA 13 runs no older GPU."""

_GROUPED = ("awq", "gptq")
_BITS = {"fp8": 8.0, "fbgemm_fp8": 8.0, "modelopt": 8.0, "modelopt_fp4": 4.5, "mxfp4": 4.25}
_GROUP_OVERHEAD_BITS = 20
"""A group's scale and zero point."""


@dataclass(frozen=True)
class Quantization:
    """A method. bits: of a weight, scales included; None where unknown; group: weights that share a scale, or None."""

    method: str
    bits: float | None
    group: int | None
    min_capability: int


def read_quantization(config: Config) -> Quantization | None:
    """Read the section; None where the model is not quantized. Raises ValueError."""
    found = section(config, "quantization_config") or section(config, "compression_config")
    if found is None:
        return None
    method = text(found, "quant_method").lower().replace("_tensors", "-tensors")
    if not method:
        raise ValueError("config.json has a quantization_config without quant_method")
    if method not in _MIN_CAPABILITY:
        raise ValueError(f"config.json has quant_method={method!r}, which vLLM 0.32 does not have")
    least = _MIN_CAPABILITY[method]
    if method not in _GROUPED:
        return Quantization(method, _BITS.get(method), _block(found), least)
    bits = count(found, "bits") if "bits" in found else count(found, "w_bit")
    group = found.get("group_size", found.get("q_group_size", 128))
    if group == -1:
        return Quantization(method, float(bits), None, least)
    size = count({"group_size": group}, "group_size")
    return Quantization(method, bits + _GROUP_OVERHEAD_BITS / size, size, least)


def _block(found: Config) -> int | None:
    """Return the side of a block of weights that share a scale (FP8); None where there are no blocks."""
    block = found.get("weight_block_size")
    if block is None:
        return None
    if not isinstance(block, list) or not block:
        raise ValueError("config.json has a weight_block_size that is no list")
    return count({"weight_block_size": block[0]}, "weight_block_size")
