"""Print what vLLM plans for the KV cache of some models: run in the engine's environment, without the agent's packages.

    python vllm_kv_plan.py JOBS.json

JOBS: {name: {"config": config.json, "lengths": [tokens], "memory": [bytes]}}. For each model vLLM reads the config,
builds the layers without memory (PyTorch's meta device), and its own functions group their KV specs as an engine on a
GPU does: blocks of 16 tokens, 2,048 tokens a step, asynchronous scheduling. Printed is one JSON document.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed import destroy_model_parallel, ensure_model_parallel_initialized, init_distributed_environment
from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase
from vllm.model_executor.model_loader.utils import initialize_model
from vllm.model_executor.models import registry
from vllm.v1.attention.backend import MultipleOf
from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend
from vllm.v1.core import kv_cache_utils

BLOCK_TOKENS, BATCHED_TOKENS = 16, 2_048
GPUS = (1, 2, 4, 8)


def plan(config: dict[str, Any], lengths: list[int], memory: list[int], rendezvous: Path) -> dict[str, Any]:
    """Return what vLLM derives and plans for one config. rendezvous: a file for PyTorch's group of one process."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(config))
        # Weights do not matter for the KV cache, and a CPU has other kernels for quantized ones.
        made = EngineArgs(
            model=folder, skip_tokenizer_init=True, dtype="bfloat16", enforce_eager=True, block_size=BLOCK_TOKENS,
            max_num_batched_tokens=BATCHED_TOKENS,
        ).create_engine_config()  # fmt: skip
        own_length = made.model_config.max_model_len
        groups, parameters = _groups(made, rendezvous)
        needed = {}
        for length in lengths:
            made.model_config.max_model_len = length
            needed[length] = kv_cache_utils._max_memory_usage_bytes_from_groups(made, groups)
        longest = {}
        for size in memory:
            made.model_config.max_model_len = own_length
            # As get_kv_cache_configs: one block is kept back.
            room = size - kv_cache_utils._pool_bytes_per_block(made, groups)
            longest[size] = kv_cache_utils._estimate_max_model_len_from_groups(made, groups, room)
    return {
        "max_length": own_length,
        "kv_heads": [made.model_config.get_num_kv_heads(SimpleNamespace(tensor_parallel_size=size)) for size in GPUS],
        "needed": needed,
        "longest": longest,
        "parameters": parameters,
    }


def _groups(made: VllmConfig, rendezvous: Path) -> tuple[list[Any], int]:
    """Build the model without memory; return its KV groups and the number of its parameters."""
    made.cache_config.block_size = BLOCK_TOKENS
    made.scheduler_config.async_scheduling = True  # GPUs' default, which a CPU turns off
    made.cache_config.kv_cache_layout = "LBNHC"  # as FlashAttention's; the engine core would choose it
    with set_current_vllm_config(made):
        if not torch.distributed.is_initialized():
            init_distributed_environment(1, 0, f"file://{rendezvous}", 0, "gloo")
        destroy_model_parallel()  # a group for experts exists only where the config has experts
        ensure_model_parallel_initialized(1, 1)
        with torch.device("meta"):
            model = initialize_model(made)
        layers = made.compilation_config.static_forward_context
        specs = {
            name: spec
            for name, layer in layers.items()
            if isinstance(layer, AttentionLayerBase) and (spec := layer.get_kv_cache_spec(made)) is not None
        }
        return kv_cache_utils.get_kv_cache_groups(made, specs), sum(each.numel() for each in model.parameters())


def main() -> None:
    """Print the plans of all jobs; a model that vLLM refuses has its error instead."""
    # A CPU's attention has blocks of 32 tokens, FlashAttention of 16.
    CPUAttentionBackend.get_supported_kernel_block_sizes = staticmethod(lambda spec=None: [MultipleOf(BLOCK_TOKENS)])
    # vLLM looks at each model's class in a process of its own, which imports vLLM anew.
    registry._run_in_subprocess = lambda function: function()
    plans: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, job in json.loads(Path(sys.argv[1]).read_text()).items():
            try:
                plans[name] = plan(job["config"], job["lengths"], job["memory"], Path(folder, "rendezvous"))
            except Exception as error:  # the test shows it
                plans[name] = {"error": f"{type(error).__name__}: {error}"}
            print(name, plans[name], file=sys.stderr, flush=True)
        print(json.dumps(plans), flush=True)


if __name__ == "__main__":
    main()
