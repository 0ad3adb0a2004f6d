"""The memory that vLLM 0.32 needs for the KV cache of one request, and the context length that a memory allows.

vLLM gives every kind of layer (all tokens, or a window) blocks of one common pool. Layers are put into groups of one
size; a block holds 16 tokens for each layer of a group. Source: v1/core/kv_cache_utils.py
(_get_kv_cache_groups_uniform_page_size, _max_memory_usage_bytes_from_groups, _estimate_max_model_len_from_groups) and
v1/kv_cache_interface.py (FullAttentionSpec, SlidingWindowSpec); `tests/contract/test_model_sizing.py` compares.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from node_agent.core.sizing.model_shape import KvLayers

BLOCK_TOKENS = 16
"""vLLM's default on GPUs. A backend may choose more, which rounds up by less than a block for each group."""

CONCURRENT_BATCHES = 2
"""With asynchronous scheduling, vLLM's default: a window keeps the tokens of both."""

MORE_THAN_LITTLE = 1.5
"""Up to this ratio of two kinds of layers vLLM pads the smaller kind, instead of splitting the larger one."""


@dataclass(frozen=True)
class KvMemory:
    """The blocks of a model on one GPU. block_bytes: of a block, for all layers of a group."""

    block_bytes: int
    full_groups: int
    """Groups that keep every token."""

    window_groups: int
    window: int
    in_flight: int
    """Tokens that may be computed and not yet settled; a window keeps them, too."""

    @property
    def token_bytes(self) -> int:
        """Bytes of one more token in a long context."""
        return self.block_bytes * self.full_groups // BLOCK_TOKENS

    def request_bytes(self, tokens: int) -> int:
        """Return the bytes of one request of this length at most."""
        full = -(-tokens // BLOCK_TOKENS)
        windowed = -(-min(self.window - 1 + self.in_flight, tokens) // BLOCK_TOKENS) + 1
        return self.block_bytes * (self.full_groups * full + self.window_groups * windowed)

    def max_tokens(self, available: int, most: int) -> int:
        """Return the longest context that fits; 0 where none does.

        Args:
            available: bytes for the KV cache on each GPU. vLLM keeps one block of them for itself.
            most: tokens that the model allows.
        """
        room = available - self.block_bytes
        low, high = 0, most
        while low < high:
            middle = (low + high + 1) // 2
            if self.request_bytes(middle) <= room:
                low = middle
            else:
                high = middle - 1
        return low


def plan_kv(kinds: Sequence[KvLayers], tensor_parallel: int, value_bytes: int, batched_tokens: int) -> KvMemory:
    """Group a model's layers. kinds: one or two, with the same values a token; value_bytes: of K's and V's values."""
    counts = [kind.layers for kind in kinds]
    size = min(counts) if max(counts) >= MORE_THAN_LITTLE * min(counts) else max(counts)
    groups = {kind.window is None: -(-kind.layers // size) for kind in kinds}
    windows = [kind.window for kind in kinds if kind.window is not None]
    return KvMemory(
        block_bytes=size * BLOCK_TOKENS * kinds[0].values(tensor_parallel) * value_bytes,
        full_groups=groups.get(True, 0),
        window_groups=groups.get(False, 0),
        window=windows[0] if windows else 1,
        in_flight=CONCURRENT_BATCHES * batched_tokens,
    )
