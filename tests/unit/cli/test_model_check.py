"""Models that vLLM could not load are refused before anything is sent, each with the file and what to do."""

from __future__ import annotations

import contextlib
import json
import struct
from collections.abc import Callable
from pathlib import Path

import boto3
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.adapters.model_check import faults
from cli.core import gguf, safetensors
from tests.unit.cli import weights
from tests.unit.cli.conftest import Run

SHARDS = ("model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors", "model-00003-of-00003.safetensors")
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 4976698672\n"
ANNEX = b"/annex/objects/SHA256E-s4976698672--4d7a.safetensors\n"
Files = dict[str, bytes]


def written(folder: Path, files: Files) -> Path:
    for path, body in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(body)
    return folder


def without(files: Files, *names: str) -> Files:
    return {name: body for name, body in files.items() if name not in names}


def torch_model() -> Files:
    return {**without(weights.model(), "model.safetensors"), "pytorch_model.bin": weights.torch_archive()}


SOUND: dict[str, Callable[[], Files]] = {
    "one file": weights.model,
    "shards": lambda: weights.model(*SHARDS),
    "shards without an index": lambda: without(weights.model(*SHARDS), "model.safetensors.index.json"),
    "an archive of PyTorch's": torch_model,
    "PyTorch's, with the index of safetensors that were left out": lambda: {
        **torch_model(), "model.safetensors.index.json": weights.model(*SHARDS)["model.safetensors.index.json"],
    },
    "gguf, with all in it": lambda: {"model-q4.gguf": weights.gguf()},
    "Mistral's": lambda: {
        "params.json": b"{}", "tekken.json": b"{}", "consolidated.safetensors": weights.safetensors(),
    },
    "vocab and merges": lambda: {**without(weights.model(), "tokenizer.json"), "vocab.json": b"{}", "merges.txt": b""},
    "more than weights": lambda: {
        **weights.model(), "README.md": b"", "2_Dense/model.safetensors": weights.safetensors(),
        "training_args.bin": b"anything",
    },
    "tensors of no elements": lambda: {**weights.model(), "model.safetensors": weights.safetensors("a", "b", size=0)},
}  # fmt: skip


@pytest.mark.parametrize("kind", SOUND)
def test_a_complete_model_has_no_fault(kind: str, tmp_path: Path) -> None:
    files = SOUND[kind]()
    assert faults(written(tmp_path, files), sorted(files)) == []


def cut(files: Files, name: str, rest: int) -> Files:
    return {**files, name: files[name][:rest]}


def odd_header(**entry: object) -> bytes:
    head = json.dumps({"w": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4], **entry}}).encode()
    return struct.pack("<Q", len(head)) + head + b"data"


ONE = weights.model()
SHARDED = weights.model(*SHARDS)
INDEX = "model.safetensors.index.json"
UNSOUND: dict[str, tuple[Files, str]] = {
    "no weights": (without(ONE, "model.safetensors"), "there are no weights in it"),
    "only an optimizer": (
        {**without(ONE, "model.safetensors"), "optimizer.bin": weights.torch_archive()},
        "there are no weights in it",
    ),
    "weights in a folder": (
        {**without(ONE, "model.safetensors"), "a/model.safetensors": ONE["model.safetensors"]},
        "only a/model.safetensors",
    ),
    "a missing shard": (without(SHARDED, SHARDS[1]), f"names 1 files that are missing: {SHARDS[1]}"),
    "a missing shard, no index": (
        without(SHARDED, SHARDS[2], INDEX),
        f"1 of 3 shards are missing: {SHARDS[2]}",
    ),
    "an empty index": ({**SHARDED, INDEX: b"{}"}, f"{INDEX} names no shards"),
    "an index of another model": (
        {**SHARDED, SHARDS[0]: weights.safetensors("other")},
        f"{SHARDS[0]} lacks tensors that {INDEX} says it has",
    ),
    "cut off": (cut(ONE, "model.safetensors", -1), "model.safetensors is cut off: it has"),
    "cut off in the header": (cut(ONE, "model.safetensors", 30), "model.safetensors is cut off in its header"),
    "cut off before it": (cut(ONE, "model.safetensors", 5), "model.safetensors is no safetensors file"),
    "empty": (cut(ONE, "model.safetensors", 0), "model.safetensors is empty"),
    "longer": ({**ONE, "model.safetensors": ONE["model.safetensors"] + b"x"}, "model.safetensors is damaged"),
    "a page of a login": (
        {**ONE, "model.safetensors": b"<!DOCTYPE html><html>" * 99},
        "model.safetensors is no safetensors file",
    ),
    "a header that is no JSON": (
        {**ONE, "model.safetensors": struct.pack("<Q", 4) + b"nope"},
        "its header cannot be read",
    ),
    "holes": ({**ONE, "model.safetensors": odd_header(data_offsets=[1, 5])}, "leave bytes out"),
    "a wrong shape": ({**ONE, "model.safetensors": odd_header(shape=[5])}, "its header cannot be read"),
    "no offsets": ({**ONE, "model.safetensors": odd_header(data_offsets=None)}, "its header cannot be read"),
    "a pointer": ({**ONE, "model.safetensors": POINTER}, "model.safetensors is not the file itself but a pointer"),
    "a pointer for the tokenizer": ({**ONE, "tokenizer.json": POINTER}, "git lfs pull"),
    "a pointer in a folder": ({**ONE, "a/b.txt": ANNEX}, "git annex get"),
    "half an archive": (
        {**without(ONE, "model.safetensors"), "pytorch_model.bin": weights.torch_archive()[:-40]},
        "pytorch_model.bin is cut off",
    ),
    "no archive": (
        {**without(ONE, "model.safetensors"), "pytorch_model.bin": b"anything"},
        "pytorch_model.bin is no file of PyTorch's",
    ),
    "a missing shard of PyTorch's": (
        {**without(ONE, "model.safetensors"), "pytorch_model-00001-of-00002.bin": weights.torch_archive()},
        "pytorch_model-00002-of-00002.bin",
    ),
    "half a gguf": ({"m.gguf": weights.gguf()[:-1]}, "m.gguf is cut off"),
    "half a gguf's head": ({"m.gguf": weights.gguf()[:60]}, "m.gguf is cut off in its head"),
    "no gguf": ({"m.gguf": b"GGML" + bytes(99)}, "m.gguf is no GGUF file"),
    "a missing shard of a gguf": ({"m-00001-of-00002.gguf": weights.gguf()}, "m-00002-of-00002.gguf"),
    "no tokenizer": (without(ONE, "tokenizer.json"), "there is no tokenizer in it"),
    "half a tokenizer": (
        {**without(ONE, "tokenizer.json"), "vocab.json": b"{}"},
        "vocab.json is a half of a tokenizer",
    ),
    "a tokenizer that was cut off": ({**ONE, "tokenizer.json": b'{"model": {'}, "tokenizer.json is no JSON"),
    "a config that was cut off": ({**ONE, "config.json": b'{"model_type":'}, "config.json is no JSON"),
    "a config that is a list": ({**ONE, "config.json": b"[]"}, "config.json is no JSON object"),
    "a config in UTF-16": ({**ONE, "config.json": "{}".encode("utf-16")}, "config.json is no JSON"),
    "an empty document": ({**ONE, "generation_config.json": b""}, "generation_config.json is no JSON"),
    "a nested document": ({**ONE, "config.json": b"[" * 100_000}, "config.json is no JSON"),
    "an interrupted download": (
        {**ONE, "model-00002.safetensors.incomplete": b"abc"},
        "model-00002.safetensors.incomplete is left of an interrupted download",
    ),
}


@pytest.mark.parametrize("kind", UNSOUND)
def test_each_fault_of_an_incomplete_model_is_named(kind: str, tmp_path: Path) -> None:
    files, message = UNSOUND[kind]
    found = faults(written(tmp_path, files), sorted(files))
    assert any(message in fault for fault in found), found
    assert all(word in " ".join(found) for word in ("download",)) or "pointer" in found[0]


def test_an_incomplete_model_is_not_sent_and_all_faults_are_reported(bucket: str, run: Run, tmp_path: Path) -> None:
    files = {**cut(without(SHARDED, SHARDS[1]), SHARDS[0], -7), "tokenizer.json": POINTER}
    done = run("model", "push", written(tmp_path / "half", files))
    assert done.code == 1
    for message in (SHARDS[0], SHARDS[1], "tokenizer.json", "--unchecked"):
        assert message in done.err
    assert "Contents" not in boto3.client("s3").list_objects_v2(Bucket=bucket)


def test_with_unchecked_an_incomplete_model_is_pushed(bucket: str, run: Run, tmp_path: Path) -> None:
    folder = written(tmp_path / "odd", without(ONE, "tokenizer.json"))
    assert run("model", "push", folder).code == 1
    assert run("model", "push", folder, "--unchecked").code == 0


def least_size(data: bytes) -> int:
    """Of either format, by how it begins."""
    if data.startswith(b"GGUF"):
        return gguf.min_size(data)
    return safetensors.parse_header(data[8 : 8 + safetensors.header_bytes(data[:8], len(data))]).size


@given(st.binary(max_size=200), st.sampled_from([b"", b"GGUF", b"GGUF\3\0\0\0", b"\x20\0\0\0\0\0\0\0{"]))
def test_no_bytes_raise_in_the_parsers(data: bytes, beginning: bytes) -> None:
    with contextlib.suppress(safetensors.Unreadable):
        assert least_size(beginning + data) > 0


@given(st.integers(0, 5000), st.sampled_from([weights.safetensors(), weights.gguf()]))
def test_a_file_cut_anywhere_is_found(at: int, whole: bytes) -> None:
    assert least_size(whole) == len(whole)
    data = whole[: at % len(whole)]
    with contextlib.suppress(safetensors.Unreadable):
        assert least_size(data) > len(data)
