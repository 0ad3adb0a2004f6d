"""Small files of weights in the formats of large ones, and a model made of them."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from random import Random

CONFIG = b'{"model_type": "tiny"}'
"""Of a family that is not known: whether it fits is not computed, and nothing is refused."""


def _data(size: int) -> bytes:
    """The same at every run, because docs/cli.md shows hashes of it."""
    return Random(size).randbytes(size)


def safetensors(*names: str, size: int = 400) -> bytes:
    """size: bytes of each tensor's data."""
    entries = {
        name: {"dtype": "U8", "shape": [size], "data_offsets": [n * size, (n + 1) * size]}
        for n, name in enumerate(names or ("w",))
    }
    head = json.dumps({"__metadata__": {"format": "pt"}, **entries}).encode()
    return struct.pack("<Q", len(head)) + head + _data(size * len(entries))


def torch_archive() -> bytes:
    """As torch.save writes it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        archive.writestr("archive/data/0", _data(300))
    return buffer.getvalue()


def gguf(elements: int = 64) -> bytes:
    """One tensor of F32."""

    def text(value: bytes) -> bytes:
        return struct.pack("<Q", len(value)) + value

    keys = text(b"general.architecture") + struct.pack("<I", 8) + text(b"llama")
    keys += text(b"tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 2) + text(b"a") + text(b"b")
    keys += text(b"tokenizer.ggml.scores") + struct.pack("<IIQ", 9, 6, 2) + struct.pack("<ff", 0.0, 1.0)
    keys += text(b"general.alignment") + struct.pack("<II", 4, 64)
    tensor = text(b"w") + struct.pack("<IQIQ", 1, elements, 0, 0)
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, 4) + keys + tensor
    return head + b"\0" * (-len(head) % 64) + _data(4 * elements)


def model(*shards: str) -> dict[str, bytes]:
    """A whole model of one file of weights, or of shards with their index, two tensors in each."""
    files = {"config.json": CONFIG, "tokenizer.json": b"{}"}
    if not shards:
        return {**files, "model.safetensors": safetensors()}
    weight_map = {f"{shard}.{n}": shard for shard in shards for n in (1, 2)}
    index = json.dumps({"metadata": {"total_size": 800}, "weight_map": weight_map}).encode()
    weights = {shard: safetensors(f"{shard}.1", f"{shard}.2") for shard in shards}
    return {**files, **weights, "model.safetensors.index.json": index}
