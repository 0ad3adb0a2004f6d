"""Copy the engine's KV cache out and in as blocks of bytes. Needs torch; only the connector loads it.

Source: vLLM 0.32's `KVConnectorBase_V1.register_kv_caches` gives a tensor for each layer, [blocks, heads, tokens,
content], whatever the memory behind it looks like; a backend may split one of the manager's blocks into several.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch


class BlockCopier:
    """Copies blocks. Raises ValueError for an unsupported layout.

    layers: in the model's order.
    blocks: the manager's number of blocks.
    """

    def __init__(self, layers: Sequence[Any], blocks: int) -> None:
        if not layers or not blocks:
            raise ValueError("the engine has no KV cache")
        self._layers = layers
        self._split = layers[0].shape[0] // blocks
        if any(layer.shape[0] != self._split * blocks or not self._split for layer in layers):
            raise ValueError("a layer's KV cache has another number of blocks")
        if len({(layer.shape[1:], layer.dtype) for layer in layers}) != 1:
            raise ValueError("the layers' KV caches differ in shape")
        self.shape = (len(layers), self._split, *layers[0].shape[1:])
        self._dtype = layers[0].dtype
        self.block_bytes = torch.empty(self.shape, dtype=self._dtype, device="meta").nbytes
        self._device = layers[0].device

    def _of(self, layer: Any, block_id: int) -> Any:
        return layer[block_id * self._split : (block_id + 1) * self._split]

    def copy_out(self, block_id: int) -> Callable[[], memoryview]:
        """Copy a block.

        On a GPU the copy is queued behind the step that fills the block, and in front of any that could reuse it.

        Returns:
            A function that waits for the copy, and returns its bytes; any thread can call it.
        """
        copied = torch.stack([self._of(layer, block_id) for layer in self._layers])
        if self._device.type == "cpu":
            return lambda: _bytes_of(copied)
        ready = torch.cuda.Event()
        ready.record()

        def fetched() -> memoryview:
            ready.synchronize()
            return _bytes_of(copied.cpu())

        return fetched

    def copy_in(self, block_id: int, payload: memoryview) -> None:
        """Copy bytes into a block. Raises ValueError where their number differs."""
        if len(payload) != self.block_bytes:
            raise ValueError(f"{len(payload)} bytes for a block of {self.block_bytes}")
        block = torch.frombuffer(payload, dtype=torch.uint8).view(self._dtype).view(self.shape)
        for layer, part in zip(self._layers, block, strict=True):
            self._of(layer, block_id).copy_(part)

    def synchronize(self) -> None:
        """Wait until this thread's copies are complete."""
        if self._device.type != "cpu":
            torch.cuda.current_stream(self._device).synchronize()


def _bytes_of(tensor: Any) -> memoryview:
    return memoryview(tensor.contiguous().view(-1).view(torch.uint8).numpy())
