"""Decide whether a model fits an instance type's GPUs: tensor-parallel size, dtype, context length, streams.

What vLLM has for the KV cache on each GPU is

    memory that CUDA reports x gpu_memory_utilization - weights - activations - CUDA graphs and libraries

The first two terms are known, and so is what a context of a certain length needs (`kv_memory`). Activations and CUDA
graphs are measured by vLLM at each start; here they are estimated, rather too large: a context that is a little shorter
than possible costs little, one that is too long stops every node. No GPU has confirmed the estimates.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from node_agent.core.sizing.engine_options import EngineOptions
from node_agent.core.sizing.gpus import BFLOAT16_CAPABILITY, Gpu, InstanceGpus
from node_agent.core.sizing.kv_memory import KvMemory, plan_kv
from node_agent.core.sizing.model_shape import ModelShape

GIB = 1024**3
MIN_CONTEXT = 1_024
"""Tokens. A model that leaves room for less does not fit: its chats would end in their first answers."""

STEP = 1_024
"""The context length is a multiple of this, so that a small error of the estimates changes nothing."""

LIBRARY_BYTES = int(1.25 * GIB)
"""CUDA graphs, the kernels' workspaces, what libraries allocate: an estimate."""

COMMUNICATION_BYTES = int(0.5 * GIB)
"""Buffers of NCCL and of the custom all-reduce, where there are several GPUs: an estimate."""

SAMPLER_BYTES = 24
"""A logit's share of the sampler's peak: in 16 and 32 bits, sorted, with its index, as a probability."""


class Verdict(StrEnum):
    """Whether a model fits an instance type."""

    FITS = "fits"
    REFUSED = "no"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Fit:
    """A model on an instance type. words: the sum, or why there is none."""

    instance_type: str
    verdict: Verdict
    words: str
    tensor_parallel: int = 1
    dtype: str = ""
    context: int = 0
    """Tokens of the longest request."""

    streams: float = 0.0
    """Requests of that length at a time; more of shorter ones."""

    kv_bytes: int = 0
    """The KV cache of each GPU."""

    kv: KvMemory | None = None

    def at(self, context: int) -> Fit:
        """Return the same fit with a shorter context: the fleet's."""
        if self.kv is None or not 0 < context < self.context:
            return self
        return replace(self, context=context, streams=_streams(self.kv, self.kv_bytes, context))


def fit_model(shape: ModelShape, weights: int, instance: InstanceGpus, options: EngineOptions) -> Fit:
    """Decide for one instance type.

    Args:
        shape: of the model.
        weights: bytes on all GPUs together, at 16 bits where they are not quantized (`weights.loaded_bytes`).
        instance: the type's GPUs.
        options: the engine's arguments, which win.

    Returns:
        The fit, with its sum in words.
    """
    gpu = instance.gpu
    if (why := _refusal(shape, gpu, options)) is not None:
        return Fit(instance.instance_type, Verdict.REFUSED, why)
    tensor_parallel = options.tensor_parallel or tensor_parallel_size(shape, instance.count)
    if (why := _split_fault(shape, tensor_parallel, instance)) is not None:
        return Fit(instance.instance_type, Verdict.REFUSED, why)
    dtype = engine_dtype(shape, gpu, options)
    if dtype == "float32" and shape.quantization is None:
        weights *= 2
    batched, sequences = _batch_defaults(gpu)
    batched, sequences = options.batched_tokens or batched, options.sequences or sequences
    kv = plan_kv(shape.kv, tensor_parallel, options.kv_bytes or (4 if dtype == "float32" else 2), batched)
    work = _activation_bytes(shape, tensor_parallel, batched, sequences)
    free, words = _kv_bytes(gpu, options.memory_share, weights, work, tensor_parallel)
    made = Fit(instance.instance_type, Verdict.FITS, words, tensor_parallel, dtype, kv_bytes=free, kv=kv)
    return _with_context(made, kv, shape.max_length, options)


def _kv_bytes(gpu: Gpu, memory_share: float, weights: int, work: int, tensor_parallel: int) -> tuple[int, str]:
    """Return what is left for the KV cache on each GPU, and the sum in words. work: bytes of activations."""
    share = -(-weights // tensor_parallel)
    libraries = LIBRARY_BYTES + (COMMUNICATION_BYTES if tensor_parallel > 1 else 0)
    free = int(gpu.memory_bytes * memory_share) - share - work - libraries
    return free, (
        f"{_gib(gpu.memory_bytes)} GiB of {_article(gpu.name)} x {memory_share:g} - {_gib(share)} weights"
        f"{f' (1/{tensor_parallel})' if tensor_parallel > 1 else ''} - {_gib(work)} activations"
        f" - {_gib(libraries)} CUDA graphs and libraries = {_gib(free)} GiB for the KV cache"
    )


def _with_context(fit: Fit, kv: KvMemory, model_length: int, options: EngineOptions) -> Fit:
    """Return the fit with its context, or the refusal where too little is left for one."""
    if fit.kv_bytes <= 0:
        return replace(fit, verdict=Verdict.REFUSED, words=f"{fit.words}: the model is too large")
    most = options.max_length or model_length
    room = kv.max_tokens(fit.kv_bytes, most)
    each = f"{fit.words}, {_token_words(kv)}"
    if options.max_length is not None and room < options.max_length:
        words = f"{each}: room for {room:,} tokens, and --max-model-len is {options.max_length:,}"
        return replace(fit, verdict=Verdict.REFUSED, words=words, context=room)
    context = room if room == most else room // STEP * STEP
    if context < min(MIN_CONTEXT, most):
        words = f"{each}: room for {room:,} tokens, less than the {MIN_CONTEXT:,} that make sense"
        return replace(fit, verdict=Verdict.REFUSED, words=words, context=room)
    streams = _streams(kv, fit.kv_bytes, context)
    why = " (the model's own length)" if context == model_length else ""
    return replace(fit, words=f"{each}: a context of {context:,} tokens{why}", context=context, streams=streams)


def tensor_parallel_size(shape: ModelShape, gpus: int) -> int:
    """Return over how many of a node's GPUs its one engine is split: all, or as many as the model can be split over."""
    return next(size for size in range(max(1, gpus), 0, -1) if _divides(shape, size))


def engine_dtype(shape: ModelShape, gpu: Gpu, options: EngineOptions) -> str:
    """Return the dtype in which vLLM computes: the model's own where the GPU has it, 16 bits for a float32 model."""
    if options.dtype is not None:
        return options.dtype
    if not _has_bfloat16(gpu):
        return "float16"
    return "bfloat16" if shape.dtype == "float32" or not shape.float16 else shape.dtype


def _refusal(shape: ModelShape, gpu: Gpu, options: EngineOptions) -> str | None:
    """Return why the GPU cannot compute the model, whatever its memory."""
    quantization = shape.quantization
    if quantization is not None and gpu.capability is not None and gpu.capability < quantization.min_capability:
        return f"{_article(gpu.name)} cannot compute {quantization.method} weights"
    dtype = engine_dtype(shape, gpu, options)
    if dtype == "bfloat16" and not _has_bfloat16(gpu):
        return f"{_article(gpu.name)} has no bfloat16, which --dtype asks for"
    if dtype == "float16" and not shape.float16:
        reason = "" if _has_bfloat16(gpu) else f"{_article(gpu.name)} has no bfloat16, and "
        return f"{reason}vLLM does not compute {shape.model_type} in float16, where it is unstable"
    return None


def _split_fault(shape: ModelShape, tensor_parallel: int, instance: InstanceGpus) -> str | None:
    if tensor_parallel > instance.count:
        return f"it has {instance.count} GPUs, and --tensor-parallel-size is {tensor_parallel}"
    if not _divides(shape, tensor_parallel):
        return (
            f"--tensor-parallel-size {tensor_parallel} does not divide the model: {shape.heads} attention heads, "
            f"{shape.kv_heads} KV heads, widths of {' and '.join(map(str, shape.matrix_widths))}"
        )
    return None


def _divides(shape: ModelShape, size: int) -> bool:
    """Return whether vLLM can split the model over that many GPUs."""
    if shape.heads % size or any(width % size for width in shape.matrix_widths):
        return False
    if shape.kv_heads % size and size % shape.kv_heads:
        return False
    group = shape.quantization.group if shape.quantization else None
    return group is None or size == 1 or all(width // size % group == 0 for width in shape.matrix_widths)


def _has_bfloat16(gpu: Gpu) -> bool:
    return gpu.capability is None or gpu.capability >= BFLOAT16_CAPABILITY


def _batch_defaults(gpu: Gpu) -> tuple[int, int]:
    """Return vLLM's tokens and requests of one step (engine/arg_utils.py, get_batch_defaults)."""
    if gpu.memory_bytes >= 160 * GIB:
        return 16_384, 1_024
    if gpu.memory_bytes >= 70 * GIB and gpu.name != "A100":
        return 8_192, 1_024
    return 2_048, 256


def _activation_bytes(shape: ModelShape, tensor_parallel: int, batched: int, sequences: int) -> int:
    """Return the peak of a step: a layer's activations for all its tokens, and the sampler's for all its requests."""
    layer = batched * (4 * shape.hidden + 3 * shape.width // tensor_parallel) * 2
    return layer + min(sequences, batched) * shape.vocabulary * SAMPLER_BYTES


def _streams(kv: KvMemory, kv_bytes: int, context: int) -> float:
    return (kv_bytes - kv.block_bytes) / kv.request_bytes(context)


def _token_words(kv: KvMemory) -> str:
    if not kv.full_groups:
        return f"for a window of {kv.window:,} tokens"
    size = kv.token_bytes / 1024
    return f"{size:.0f} KiB a token" if size >= 10 else f"{size:.1f} KiB a token"


def _gib(size: int) -> str:
    return f"{size / GIB:.1f}"


def _article(gpu: str) -> str:
    return f"an {gpu}" if gpu[:1] in "AHLR" else f"a {gpu}"
