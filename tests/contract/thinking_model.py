"""The tiny model with four tokens that mean something to vLLM's parsers: no model of its size has any.

The last four tokens of its vocabulary become the tags. What they meant is spelled with others from then on, and which
answers the model gives is of no interest here.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

TAGS = ("<think>", "</think>", "<tool_call>", "</tool_call>")


def make_thinking_model(model: Path, folder: Path) -> Path:
    """A copy of the model's folder, with the tags in its tokenizer."""
    shutil.copytree(model, folder)
    path = folder / "tokenizer.json"
    told = json.loads(path.read_text())
    vocabulary: dict[str, int] = told["model"]["vocab"]
    last = sorted(vocabulary, key=lambda token: vocabulary[token])[-len(TAGS) :]
    for tag, token in zip(TAGS, last, strict=True):
        number = vocabulary.pop(token)
        assert number == TAG_IDS[tag]
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
        told["added_tokens"].append({"id": number, "content": tag, **flags})
    merges = told["model"]["merges"]
    gone = set(last)
    told["model"]["merges"] = [pair for pair in merges if not _makes(pair, gone)]
    path.write_text(json.dumps(told))
    return folder


def _makes(pair: list[str] | str, gone: set[str]) -> bool:
    parts = pair.split(" ") if isinstance(pair, str) else pair
    return "".join(parts) in gone or bool(gone & set(parts))


TAG_IDS = {tag: 395 + place for place, tag in enumerate(TAGS)}
BIASED = {
    "reasoning": {str(TAG_IDS["<think>"]): 10.0, str(TAG_IDS["</think>"]): 6.0},
    "reasoning-hidden-ids": {str(TAG_IDS["</think>"]): 6.0},
    "reasoning-hidden": {str(TAG_IDS["</think>"]): 6.0},
    "reasoning-schema": {str(TAG_IDS["</think>"]): 6.0},
    "tool-parallel": {str(TAG_IDS["<tool_call>"]): 60.0, str(TAG_IDS["</tool_call>"]): 60.0},
}
"""What makes it likely that a tag is said where it belongs."""
