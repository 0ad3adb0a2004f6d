"""The size of a model's weights: of its files, of its safetensors index, or estimated from its config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from node_agent.core.sizing.model_shape import ModelShape

INDEX = "model.safetensors.index.json"
_KINDS = (".safetensors", ".bin", ".pt", ".pth")
_OWN_FORMAT = "consolidated"
"""Mistral's own copies of the weights, which vLLM ignores where the others are."""

_PLAIN_BITS = {"bfloat16": 16.0, "float16": 16.0, "float32": 32.0}
_LEAST, _MOST = 0.6, 1.6
"""Of the expected size. Real models are within a tenth; quantized ones keep some layers whole."""


@dataclass(frozen=True)
class WeightSizes:
    """What is known of a model's files. files: bytes by path; index: the parsed safetensors index, None for none."""

    files: Mapping[str, int]
    index: object = None

    def total(self) -> int | None:
        """Return the bytes of the files that vLLM loads; None where neither files nor index say it."""
        kept = self.index.get("weight_map") if isinstance(self.index, dict) else None
        if isinstance(kept, dict) and kept and all(isinstance(name, str) for name in kept.values()):
            named = set(kept.values())
            if named <= set(self.files):
                return sum(self.files[name] for name in named)
            return _announced(self.index)
        for kind in _KINDS:
            found = {path: size for path, size in self.files.items() if path.endswith(kind) and "/" not in path}
            others = {path: size for path, size in found.items() if not path.startswith(_OWN_FORMAT)}
            if found:
                return sum((others or found).values())
        return None


def _announced(index: object) -> int | None:
    metadata = index.get("metadata") if isinstance(index, dict) else None
    size = metadata.get("total_size") if isinstance(metadata, dict) else None
    if isinstance(size, float) and size.is_integer():
        size = int(size)
    return size if isinstance(size, int) and not isinstance(size, bool) and 0 < size < 2**60 else None


def expected_bytes(shape: ModelShape, bits: float | None = None) -> int | None:
    """Return the size of the weights by the config; None where the quantization's bits are unknown.

    Args:
        shape: the model's.
        bits: of a parameter that is not quantized; None: the config's dtype.
    """
    plain = _PLAIN_BITS[shape.dtype] if bits is None else bits
    rest = plain if shape.quantization is None else shape.quantization.bits
    if rest is None:
        return None
    # A quantized model's other layers are of 16 bits, also where the config says float32.
    outer = plain if shape.quantization is None else 16.0
    return int((shape.embeddings * outer + (shape.parameters - shape.embeddings) * rest) / 8)


def loaded_bytes(shape: ModelShape, size: int | None) -> int:
    """Return the bytes of the weights on all GPUs together.

    Args:
        shape: the model's.
        size: of its files; None: unknown, then it is estimated.

    Raises:
        ValueError: the config does not describe weights of this size, or the size is unknown and cannot be estimated.
    """
    expected = expected_bytes(shape)
    if size is None:
        if expected is None:
            raise ValueError("neither the weights' files nor their index are there, and config.json does not say more")
        return _halved(shape, expected) if shape.dtype == "float32" else expected
    if expected is None:
        return size
    if shape.quantization is None:
        size, expected = _as_computed(shape, size)
    if not _LEAST * expected <= size <= _MOST * expected:
        raise ValueError(
            f"config.json describes {shape.parameters / 1e9:.1f} billion parameters, {expected / 2**30:.1f} GiB of "
            f"weights, and the files have {size / 2**30:.1f} GiB: it is not the config.json of these weights"
        )
    return size


def _halved(shape: ModelShape, size: int) -> int:
    return size // 2 if shape.quantization is None else size


def _as_computed(shape: ModelShape, size: int) -> tuple[int, int]:
    """Return the bytes on the GPUs and those expected, at 16 bits: vLLM computes 32-bit weights in 16."""
    half = shape.parameters * 2
    return (size // 2 if size > _MOST * half else size), half
