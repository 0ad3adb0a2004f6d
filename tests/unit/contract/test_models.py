"""The manifest of a model: what is written is read again, and nothing else is."""

from __future__ import annotations

import hashlib

import pytest

from node_agent.contract.models import (
    MANIFEST,
    MAX_FILES,
    ModelFile,
    format_manifest,
    is_model_name,
    manifest_digest,
    manifest_key,
    model_prefix,
    parse_manifest,
)

ONE = ModelFile("model.safetensors", "a" * 64, 5_000_000_000)
TWO = ModelFile("tokenizer/merges and ranks.txt", "0" * 64, 0)


def test_a_manifest_round_trips_in_the_order_of_paths() -> None:
    text = format_manifest([TWO, ONE])
    assert text.splitlines()[0] == "a" * 64 + " 5000000000 model.safetensors"
    assert parse_manifest(text) == (ONE, TWO)
    assert format_manifest([ONE, TWO]) == text
    assert manifest_digest(text) == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("path", ["../other/model", "/etc/passwd", "a/../b", "./a", "a//b", "a\nb", "", MANIFEST])
def test_a_path_outside_the_folder_is_neither_written_nor_read(path: str) -> None:
    with pytest.raises(ValueError, match=r"path|line"):
        format_manifest([ModelFile(path, "a" * 64, 1)])
    with pytest.raises(ValueError, match=r"path|line|empty"):
        parse_manifest(f"{'a' * 64} 1 {path}\n")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty"),
        ("hello\n", "line 1"),
        (f"{'a' * 64} 1 a\n{'a' * 63} 1 b\n", "line 2"),
        (f"{'a' * 64} -1 a\n", "line 1"),
        (f"{'a' * 64} 1 a\n{'b' * 64} 1 a\n", "twice"),
        ("".join(f"{'a' * 64} 1 {n}\n" for n in range(MAX_FILES + 1)), "more than"),
    ],
)
def test_an_invalid_manifest_is_refused_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_manifest(text)


def test_names_are_folders() -> None:
    given = ("tiny", "Qwen2.5-7B_v1", "", ".", "..", "a/b", "-x", "a" * 97)
    assert [name for name in given if is_model_name(name)] == ["tiny", "Qwen2.5-7B_v1"]
    assert (model_prefix("tiny"), manifest_key("tiny")) == ("models/tiny/", "models/tiny/manifest.sha256")
