"""Read from the engine's arguments what a node's memory depends on: those that an operator sets win.

Arguments of `vllm serve`, as `engine_args` has them: `--name value` or `--name=value`. A later one overrides an earlier
one. Defaults are vLLM 0.32's (config/cache.py, engine/arg_utils.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

MEMORY_SHARE = 0.92
"""vLLM's `--gpu-memory-utilization`."""

_OTHER_MEMORY = frozenset(
    {
        "--speculative-config", "--speculative-model", "--enable-lora", "--cpu-offload-gb", "--pipeline-parallel-size",
        "-pp", "--quantization", "-q", "--kv-cache-memory-bytes", "--data-parallel-size", "-dp", "--hf-overrides",
        "--num-gpu-blocks-override", "--kv-offloading-size", "--decode-context-parallel-size", "-dcp",
        "--disable-hybrid-kv-cache-manager", "--enable-prompt-embeds", "--performance-mode", "--runner",
    }
)  # fmt: skip
"""Options that change the memory in a way that is not computed here."""

_SUFFIXES = {"k": 10**3, "m": 10**6, "g": 10**9, "K": 2**10, "M": 2**20, "G": 2**30}
_SHORT = {"-tp": "--tensor-parallel-size"}
_LENGTH = re.compile(r"(\d+(?:\.\d+)?)([kKmMgG]?)")
_DTYPES = {
    "auto": None, "half": "float16", "float16": "float16", "bfloat16": "bfloat16",
    "float": "float32", "float32": "float32",
}  # fmt: skip


@dataclass(frozen=True)
class EngineOptions:
    """What the arguments say. None: vLLM's default, which depends on the model or the GPU."""

    memory_share: float = MEMORY_SHARE
    max_length: int | None = None
    """Tokens of `--max-model-len`; None where it is absent, or `auto`."""

    sets_length: bool = False
    """True where `--max-model-len` is given, `auto` included."""

    tensor_parallel: int | None = None
    dtype: str | None = None
    sets_dtype: bool = False
    kv_bytes: int | None = None
    """Bytes of a value in the KV cache; None: those of the dtype."""

    batched_tokens: int | None = None
    sequences: int | None = None
    trusts_code: bool = False
    """True with `--trust-remote-code`."""

    unsized: str = ""
    """An option that changes the memory in a way that is not computed here; "" for none."""


def read_options(arguments: Sequence[str]) -> EngineOptions:
    """Read the arguments. Raises ValueError, with the option's name, where vLLM could not read a value either."""
    options = EngineOptions()
    for name, value in _pairs(arguments):
        if name in _OTHER_MEMORY:
            options = replace(options, unsized=name)
        elif name == "--trust-remote-code":
            options = replace(options, trusts_code=True)
        elif name in _READERS:
            if value is None:
                raise ValueError(f"engine_args has {name} without a value")
            try:
                options = replace(options, **_READERS[name](value))
            except ValueError as error:
                raise ValueError(f"engine_args has {name} {value}: {error}") from error
    return options


def _pairs(arguments: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Yield each option, in one spelling, with the value behind it."""
    for at, word in enumerate(arguments):
        if not word.startswith("-") or _is_number(word):
            continue
        name, equals, given = word.partition("=")
        name = _SHORT.get(name, name.replace("_", "-"))
        following = arguments[at + 1] if at + 1 < len(arguments) else None
        if following is not None and following.startswith("-") and not _is_number(following):
            following = None
        yield name, given if equals else following


def _is_number(word: str) -> bool:
    return re.fullmatch(r"-?\d+(\.\d+)?", word) is not None


def _share(value: str) -> dict[str, Any]:
    share = float(value)
    if not 0 < share <= 1:
        raise ValueError("must be more than 0, at most 1")
    return {"memory_share": share}


def _length(value: str) -> dict[str, Any]:
    if value in ("-1", "auto"):
        return {"sets_length": True, "max_length": None}
    return {"sets_length": True, "max_length": _number(value)}


def _number(value: str) -> int:
    match = _LENGTH.fullmatch(value)
    number = int(float(match[1]) * _SUFFIXES.get(match[2], 1)) if match else 0
    if not 0 < number < 2**40:
        raise ValueError("must be a number of at least 1")
    return number


def _dtype(value: str) -> dict[str, Any]:
    if value not in _DTYPES:
        raise ValueError(f"must be one of {', '.join(_DTYPES)}")
    return {"dtype": _DTYPES[value], "sets_dtype": True}


def _kv_dtype(value: str) -> dict[str, Any]:
    if value in ("auto", "bfloat16", "float16"):
        return {"kv_bytes": None if value == "auto" else 2}
    # fp8, fp8_e4m3, fp8_e5m2 are a byte a value; the rest packs scales with the values.
    return {"kv_bytes": 1} if re.fullmatch(r"fp8(_e4m3|_e5m2)?", value) else {"unsized": f"--kv-cache-dtype {value}"}


_READERS: dict[str, Callable[[str], dict[str, Any]]] = {
    "--gpu-memory-utilization": _share,
    "--max-model-len": _length,
    "--dtype": _dtype,
    "--kv-cache-dtype": _kv_dtype,
    "--tensor-parallel-size": lambda value: {"tensor_parallel": _number(value)},
    "--max-num-batched-tokens": lambda value: {"batched_tokens": _number(value)},
    "--max-num-seqs": lambda value: {"sequences": _number(value)},
}
