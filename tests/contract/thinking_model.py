"""Makes a copy of the tiny model with the four tag tokens that vLLM's parsers need, which no model of its size has.

The last four tokens of its vocabulary become the tags. Text that used them is tokenized with others from then on;
the content of the model's answers does not matter.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

TAGS = ("<think>", "</think>", "<tool_call>", "</tool_call>")


def make_thinking_model(model: Path, folder: Path) -> Path:
    """Copy the model to `folder`, with the tags in its tokenizer, and return that folder."""
    shutil.copytree(model, folder)
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocabulary: dict[str, int] = tokenizer["model"]["vocab"]
    last = sorted(vocabulary, key=lambda token: vocabulary[token])[-len(TAGS) :]
    for tag, token in zip(TAGS, last, strict=True):
        number = vocabulary.pop(token)
        assert number == TAG_IDS[tag]
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
        tokenizer["added_tokens"].append({"id": number, "content": tag, **flags})
    merges = tokenizer["model"]["merges"]
    removed = set(last)
    tokenizer["model"]["merges"] = [pair for pair in merges if not _makes(pair, removed)]
    path.write_text(json.dumps(tokenizer))
    return folder


def _makes(pair: list[str] | str, removed: set[str]) -> bool:
    parts = pair.split(" ") if isinstance(pair, str) else pair
    return "".join(parts) in removed or bool(removed & set(parts))


TAG_IDS = {tag: 395 + place for place, tag in enumerate(TAGS)}
BIASED = {
    "reasoning": {str(TAG_IDS["<think>"]): 10.0, str(TAG_IDS["</think>"]): 6.0},
    "reasoning-hidden-ids": {str(TAG_IDS["</think>"]): 6.0},
    "reasoning-hidden": {str(TAG_IDS["</think>"]): 6.0},
    "reasoning-schema": {str(TAG_IDS["</think>"]): 6.0},
    "tool-parallel": {str(TAG_IDS["<tool_call>"]): 60.0, str(TAG_IDS["</tool_call>"]): 60.0},
}
"""Logit biases that make a tag likely at its place, by recording or row."""
