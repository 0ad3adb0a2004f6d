"""KV connector for vLLM: stores every full block, decode blocks included, and loads the stored ones.

    --kv-transfer-config '{"kv_connector": "SynktiKvConnector", "kv_connector_module_path": "node_agent.kv.connector",
                           "kv_role": "kv_both", "kv_load_failure_policy": "recompute",
                           "kv_connector_extra_config": {"folder": "...", "max_bytes": ..., "weights": "..."}}'

Rules kept here:

* it is for vLLM 0.32.0; on any other version, and for unsupported engines (several KV cache groups, sliding windows,
  pipelines, several contexts), it declines: the engine runs as if it were absent, and the folder records the reason;
* a step waits for nothing: blocks are copied behind it and written by a thread (`writer`), and threads load blocks
  (`loader`) while other requests continue;
* a block that cannot be loaded is reported to vLLM, which computes it (`kv_load_failure_policy`).

Sources: `vllm/distributed/kv_transfer/kv_connector/v1/base.py` of 0.32.0 for the order of calls; its scheduler for the
effect of a failed load. Run on CPUs; it has not run on a GPU (model runner V2).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import vllm
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
    SupportsHMA,
)
from vllm.logger import init_logger

from node_agent.core.kv.blocks import HEADER_BYTES, engine_fingerprint, names_key_id, read_names_key
from node_agent.kv.folder import BlockFolder
from node_agent.kv.loader import Loader
from node_agent.kv.pages import BlockCopier
from node_agent.kv.requests import PROBE, Load, Requests, Save
from node_agent.kv.weights import weights_digest
from node_agent.kv.writer import CopiedBlock, LastBlock, Writer

VLLM_VERSION = "0.32.0"
FORMAT = 1
_MAX_BYTES = 4 * 1024**3
_log = init_logger(__name__)


@dataclass
class StepMetadata(KVConnectorMetadata):  # type: ignore[misc] # vLLM is not in the environment that is checked
    """What the scheduler sends to the workers for one step.

    last_blocks: (request, key of its last block), stored already.
    """

    saves: list[Save] = field(default_factory=list)
    last_blocks: list[tuple[str, bytes]] = field(default_factory=list)
    loads: list[Load] = field(default_factory=list)


def _why_declined(config: Any, kv_cache: Any, version: str = vllm.__version__) -> str | None:
    """Return why this engine is unsupported; None where it is supported."""
    parallel = config.parallel_config
    if version.partition("+")[0] != VLLM_VERSION:
        return f"made for vLLM {VLLM_VERSION}, this is {version}"
    if len(kv_cache.kv_cache_groups) != 1:
        return f"the model has {len(kv_cache.kv_cache_groups)} KV cache groups"
    kind = type(kv_cache.kv_cache_groups[0].kv_cache_spec).__name__
    if kind not in ("FullAttentionSpec", "MLAAttentionSpec"):
        return f"its KV cache is a {kind}"
    if parallel.pipeline_parallel_size > 1:
        return "it runs as a pipeline"
    if parallel.decode_context_parallel_size > 1 or parallel.prefill_context_parallel_size > 1:
        return "contexts are split over workers"
    if not config.cache_config.enable_prefix_caching:
        return "prefix caching is off"
    return None


def _vllm_fingerprint(config: Any, kv_cache: Any, weights: str, secret: bytes) -> bytes:
    """Return the fingerprint of this engine's blocks. weights: a digest of the model's; secret: for names."""
    model, group = config.model_config, kv_cache.kv_cache_groups[0]
    return engine_fingerprint(
        {
            "format": FORMAT,
            "vllm": vllm.__version__.partition("+")[0],
            "weights": weights,
            "config": model.hf_config.to_json_string(use_diff=False),
            "quantization": str(model.quantization),
            "dtype": str(model.dtype),
            "device": torch.device(config.device_config.device).type,
            "cpu": _cpu_kind() if config.device_config.device_type == "cpu" else "",
            "layers": list(group.layer_names),
            "spec": repr(group.kv_cache_spec),
            "cache_dtype": str(config.cache_config.cache_dtype),
            "workers": config.parallel_config.tensor_parallel_size,
            **({"names": names_key_id(secret)} if secret else {}),
        }
    )


def _cpu_kind() -> str:
    """Return the CPU's kind: the order of a block's bytes depends on the instructions that read it.

    Source: `cpu_attn._get_attn_isa`.
    """
    return f"{torch.backends.cpu.get_cpu_capability()} amx={torch.cpu._is_amx_tile_supported()}"


class SynktiKvConnector(KVConnectorBase_V1, SupportsHMA):  # type: ignore[misc] # see above
    """The connector. One instance runs in the engine's scheduler, another in each of its workers."""

    def __init__(self, vllm_config: Any, role: KVConnectorRole, kv_cache_config: Any) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        extra = self._kv_transfer_config.kv_connector_extra_config
        parallel = vllm_config.parallel_config
        self._shards = parallel.tensor_parallel_size
        writers = self._shards + 1  # the agent writes, too
        self._folder = BlockFolder(Path(extra["folder"]), int(extra.get("max_bytes", _MAX_BYTES)), writers)
        self._requests: Requests | None = None
        self._loads: list[Load] = []
        self._copier: BlockCopier | None = None
        self._writer: Writer | None = None
        self._loader: Loader | None = None
        self._broken: set[int] = set()
        self._fingerprint = b""
        self._secret = read_names_key(os.environ)
        why = _why_declined(vllm_config, kv_cache_config)
        if why is None:
            weights = extra.get("weights") or weights_digest(Path(vllm_config.model_config.model))
            if weights is None:
                why = "the weights are not identified"
            else:
                self._fingerprint = _vllm_fingerprint(vllm_config, kv_cache_config, weights, self._secret)
        if role == KVConnectorRole.SCHEDULER:
            self._start_scheduler(why)

    def _start_scheduler(self, why: str | None) -> None:
        block_tokens = self._vllm_config.cache_config.block_size
        layout = {"format": FORMAT, "vllm": vllm.__version__, "block_tokens": block_tokens, "shards": self._shards}
        if why is None:
            self._requests = Requests(
                self._fingerprint, block_tokens, self._folder.contains, self._shards, self._secret
            )
            layout["fingerprint"] = self._fingerprint.hex()
        else:
            _log.warning("Synkti stores no KV blocks: %s", why)
            layout["declined"] = why
        self._folder.write_layout(layout)

    @property
    def requires_kv_delivery(self) -> bool:
        """False: a block that was not stored is computed again."""
        return False

    # in the scheduler

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int, bool]:
        """Return how many tokens behind the computed ones can be loaded, and whether that happens beside the steps.

        num_computed_tokens: those that are in the engine's cache.
        """
        if self._requests is None or not _is_plain(request):
            return 0, False
        max_tokens = request.num_tokens
        if request.prefill_stats is not None and request.num_preemptions <= 0:
            max_tokens = request.num_prompt_tokens  # for a new request the scheduler accepts no more than its prompt
        tokens = self._requests.match(request, request.cache_salt or "", num_computed_tokens, max_tokens)
        return tokens, tokens > 0

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        """Plan to load the matched blocks, now that the request has got blocks of the cache.

        num_external_tokens: of the match, those that it got blocks for; 0 for nothing to load.
        """
        if self._requests is None or not _is_plain(request):
            return
        block_ids = blocks.get_block_ids()[0]
        load = self._requests.on_scheduled(request, request.cache_salt or "", block_ids, num_external_tokens)
        if load is not None:
            self._loads.append(load)

    def build_connector_meta(self, scheduler_output: Any) -> StepMetadata:
        """Return what the workers load and store for this step; the planned loads are in it once."""
        steps = StepMetadata(loads=self._loads)
        self._loads = []
        if self._requests is None:
            return steps
        resolve = scheduler_output.kv_connector_block_state.resolve_block_ids
        for name, computing in scheduler_output.num_scheduled_tokens.items():
            plan = self._requests.plan_saves(name, computing, resolve)
            steps.saves += plan.saves
            if plan.last_block is not None:
                steps.last_blocks.append((name, plan.last_block))
        return steps

    def request_finished_all_groups(self, request: Any, block_ids: Any) -> tuple[bool, None]:
        """Drop a request's state. Return (False, None): its blocks can be freed now, and there are no parameters."""
        if self._requests is not None:
            self._requests.remove(request.request_id)
        return False, None

    def request_finished(self, request: Any, block_ids: Any) -> tuple[bool, None]:
        """As `request_finished_all_groups`, with the blocks of one group."""
        return self.request_finished_all_groups(request, block_ids)

    # in a worker

    def register_kv_caches(self, kv_caches: dict[str, Any]) -> None:
        """Start the writer and the loader over this worker's cache; nothing starts where the engine is declined.

        kv_caches: a tensor for each layer, by the layer's name.
        """
        if not self._fingerprint:
            return
        names = self._kv_cache_config.kv_cache_groups[0].layer_names
        shard = self._vllm_config.parallel_config.rank % self._shards
        self._copier = pages = BlockCopier([kv_caches[name] for name in names], self._kv_cache_config.num_blocks)
        self._writer = Writer(self._folder, self._fingerprint, shard, self._shards)
        self._loader = Loader(self._folder, self._fingerprint, pages.copy_in, pages.synchronize, shard, self._shards)
        size = pages.block_bytes + HEADER_BYTES
        _log.info("Synkti stores KV blocks of %d bytes in %s", size, self._folder.root)

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        """Load the step's blocks with threads; the step does not wait for them."""
        if self._loader is not None:
            for load in self._get_connector_metadata().loads:
                self._loader.start(load)

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Do nothing: no load runs within a step."""

    def save_kv_layer(self, layer_name: str, kv_layer: Any, attn_metadata: Any, **kwargs: Any) -> None:
        """Do nothing: whole blocks are copied behind the step."""

    def wait_for_save(self) -> None:
        """Copy the step's blocks behind it, and queue them; what the writer has no room for is not stored."""
        steps = self._get_connector_metadata()
        if self._writer is None or self._copier is None or not (steps.saves or steps.last_blocks):
            return
        pages, writer = self._copier, self._writer
        size = pages.block_bytes
        items: list[CopiedBlock | LastBlock] = [
            CopiedBlock(save, pages.copy_out(save.block_id), size) for save in steps.saves if writer.reserve(save, size)
        ]
        writer.enqueue([*items, *(LastBlock(*head) for head in steps.last_blocks)])

    def get_finished(self, finished_req_ids: set[str]) -> tuple[set[str] | None, set[str] | None]:
        """Return (None, the requests whose loading ended since the last call); (None, None) where nothing runs.

        The first is None because no request's blocks wait to be stored.
        """
        if self._writer is None or self._loader is None:
            return None, None
        self._writer.remove_finished(finished_req_ids)
        done, broken = self._loader.finished()
        self._broken |= broken
        return None, done

    def get_block_ids_with_load_errors(self) -> set[int]:
        """Return the blocks whose loading failed since the last call; vLLM computes them."""
        broken, self._broken = self._broken, set()
        return broken

    def shutdown(self) -> None:
        """Stop loading, and write what is queued for a bounded time."""
        if self._loader is not None:
            self._loader.close()
        if self._writer is not None:
            self._writer.close()


def _is_plain(request: Any) -> bool:
    """Return whether the request's blocks depend on its ids alone, and are of use to others."""
    return not (
        request.lora_request or request.mm_features or request.prompt_embeds is not None
        or request.prompt_token_ids is None or request.pooling_params is not None or PROBE in request.request_id
    )  # fmt: skip
