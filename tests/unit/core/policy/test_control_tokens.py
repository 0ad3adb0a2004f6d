"""Control tokens of multimodal models: found in the model's files, and in the texts and ids of requests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from node_agent.adapters.control_tokens import read_control_tokens
from node_agent.contract.errors import RequestRejected
from node_agent.core.policy.control_tokens import (
    NO_TOKENS,
    ControlTokenRule,
    ControlTokens,
    control_token_ids,
    control_token_texts,
)

PAD, START = "<|image_pad|>", "<|vision_start|>"
RULE = ControlTokenRule(ControlTokens(frozenset({PAD, START}), frozenset({7, 8})))

REFUSED: tuple[dict[str, Any], ...] = (
    {"prompt": f"a {PAD}"},
    {"prompt": ["a", f"{START}"]},
    {"prompt": [1, 7]},
    {"prompt": [1, 7.0]},
    {"prompt": [[1], [8, 2]]},
    {"messages": [{"role": "user", "content": PAD}]},
    {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "<|image"}, {"type": "text", "text": "_pad|>"}]}
        ]
    },
    {"messages": [{"role": "user", "content": ["<|image", "_pad|>"]}]},
    {"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": PAD}}]}]},
    {"tools": [{"function": {"name": "f", "description": PAD}}]},
    {"tools": [{"function": {"name": "f", "parameters": {"properties": {PAD: {}}}}}]},
    {"system": PAD},
    {"input": [{"content": [{"type": "input_text", "text": PAD}]}]},
    {"instructions": PAD},
    {"documents": [PAD]},
    {"suffix": PAD},
)


@pytest.mark.parametrize("body", REFUSED, ids=lambda body: str(body)[:80])
def test_a_control_token_is_found_in_every_text_and_among_ids(body: dict[str, Any]) -> None:
    with pytest.raises(RequestRejected) as refused:
        RULE.check({"model": "m", **body})
    assert (refused.value.status, refused.value.code) == (400, "control_token")
    assert refused.value.param == next(iter(body))


@pytest.mark.parametrize(
    "body", [{"prompt": "<|image"}, {"prompt": [1, 2]}, {"messages": [{"content": "image_pad"}], "max_tokens": 7}, {}]
)
def test_other_texts_and_numbers_pass(body: dict[str, Any]) -> None:
    RULE.check(body)


def test_a_model_for_texts_has_no_rule() -> None:
    assert not ControlTokenRule(NO_TOKENS).is_needed


QWEN = {
    "model_type": "qwen2_5_vl",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "vision_start_token_id": 3,
    "vision_end_token_id": 4,
    "image_token_id": 5,
    "video_token_id": 6,
    "vision_config": {"hidden_size": 9},
    "text_config": {"pad_token_id": 1},
}


@pytest.mark.parametrize(
    ("config", "ids"),
    [
        (QWEN, {3, 4, 5, 6}),
        ({"image_token_index": 9, "boi_token_index": 8, "eoi_token_index": 7}, {7, 8, 9}),
        ({"thinker_config": {"audio_token_id": 3, "audio_start_token_id": 4}}, {3, 4}),
        ({"img_context_token_id": 5, "vocab_size": 10}, {5}),
        ({"bos_token_id": 1, "eos_token_id": [2], "pad_token_id": 3, "decoder_start_token_id": 4}, set()),
        ({"image_token_id": "5", "video_token_id": True, "audio_token_id": None}, set()),
        (None, set()),
        ([], set()),
    ],
)
def test_ids_are_read_from_the_config_by_their_names(config: Any, ids: set[int]) -> None:
    assert control_token_ids(config) == ids


@pytest.mark.parametrize(
    "tokenizers",
    [
        {"added_tokens.json": {PAD: 5, "other": 6}},
        {"tokenizer_config.json": {"added_tokens_decoder": {"5": {"content": PAD}, "6": {"content": "x"}}}},
        {"tokenizer.json": {"added_tokens": [{"id": 5, "content": PAD}, {"id": 1, "content": "x"}]}},
    ],
)
def test_texts_are_read_from_whichever_file_has_them(tokenizers: dict[str, Any]) -> None:
    assert control_token_texts(frozenset({5}), tokenizers) == {PAD}


@pytest.mark.parametrize(
    "value", [None, [], 5, {"added_tokens_decoder": []}, {"added_tokens_decoder": {"x": 5, "²": {}}}]
)
def test_files_of_another_form_have_no_tokens(value: object) -> None:
    names = ("added_tokens.json", "tokenizer_config.json", "tokenizer.json")
    assert control_token_texts(frozenset({5}), dict.fromkeys(names, value)) == frozenset()


def test_the_tokens_of_a_folder(tmp_path: Path) -> None:
    assert read_control_tokens(str(tmp_path)) == NO_TOKENS
    assert read_control_tokens("s3://bucket/model") == NO_TOKENS
    (tmp_path / "config.json").write_text(json.dumps(QWEN))
    assert read_control_tokens(str(tmp_path)) == ControlTokens(frozenset(), frozenset({3, 4, 5, 6}))
    (tmp_path / "added_tokens.json").write_text(json.dumps({PAD: 5}))
    assert read_control_tokens(str(tmp_path)).texts == {PAD}
    (tmp_path / "added_tokens.json").write_text("{")
    assert read_control_tokens(str(tmp_path)).texts == frozenset()
    (tmp_path / "config.json").write_bytes(b"\xff" * 10)
    assert read_control_tokens(str(tmp_path)) == NO_TOKENS
