"""A model's folder for the fake engine, which does not read it; the boot scripts download and verify it."""

from __future__ import annotations

import json
from pathlib import Path

_WEIGHT_BYTES = 1_000_000


def write_model(folder: Path) -> Path:
    """Write the folder; return it."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "max_position_embeddings": 4096}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    header = json.dumps({"w": {"dtype": "U8", "shape": [_WEIGHT_BYTES], "data_offsets": [0, _WEIGHT_BYTES]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(_WEIGHT_BYTES))
    return folder
