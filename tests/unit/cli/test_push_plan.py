"""What a push still has to do, from what is here and what is there."""

from __future__ import annotations

from pathlib import PurePath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.core.model_source import default_name, model_fault, select_files
from cli.core.upload_plan import (
    MAX_PARTS,
    MIB,
    PART_BYTES,
    Part,
    RemoteObject,
    UnfinishedUpload,
    part_bytes,
    part_ranges,
    plan_push,
    replaces_model,
)
from node_agent.contract.models import ModelFile

CONFIG = ModelFile("config.json", "c" * 64, 3)
WEIGHTS = ModelFile("w.safetensors", "e" * 64, 3 * PART_BYTES + 5)
FILES = (CONFIG, WEIGHTS)
THERE = {file.path: RemoteObject(file.size, file.sha256) for file in FILES}
PARTS = {1: Part(PART_BYTES, "m1"), 4: Part(5, "m4")}


def test_a_first_push_uploads_everything() -> None:
    plan = plan_push(FILES, {}, (), None)
    assert [upload.file for upload in plan.uploads] == [CONFIG, WEIGHTS]
    assert (plan.removes_manifest, plan.is_noop, plan.upload_bytes) == (False, False, CONFIG.size + WEIGHTS.size)
    assert [upload.is_single_request for upload in plan.uploads] == [True, False]


def test_a_second_push_does_nothing() -> None:
    plan = plan_push(FILES, THERE, (), FILES)
    assert (plan.is_noop, plan.removes_manifest, plan.uploads, plan.remove) == (True, False, (), ())


def test_a_push_that_lacked_only_its_manifest_writes_it() -> None:
    plan = plan_push(FILES, THERE, (), None)
    assert (plan.is_noop, plan.removes_manifest, plan.uploads) == (False, False, ())


@pytest.mark.parametrize("remote", [RemoteObject(3, "0" * 64), RemoteObject(3, None), RemoteObject(4, CONFIG.sha256)])
def test_an_object_of_other_or_unknown_content_is_uploaded_again(remote: RemoteObject) -> None:
    plan = plan_push(FILES, {**THERE, "config.json": remote}, (), None)
    assert [upload.file for upload in plan.uploads] == [CONFIG]


def test_an_interrupted_upload_is_continued() -> None:
    begun = UnfinishedUpload(WEIGHTS.path, "u1", PARTS)
    plan = plan_push(FILES, {}, (begun,), None)
    assert plan.uploads[1].upload_id == "u1"
    assert plan.uploads[1].candidates == PARTS
    assert plan.abort == ()


def test_the_longest_upload_is_continued_and_the_others_are_aborted() -> None:
    little = UnfinishedUpload(WEIGHTS.path, "u1", {})
    much = UnfinishedUpload(WEIGHTS.path, "u2", PARTS)
    plan = plan_push(FILES, {}, (little, much), None)
    assert plan.uploads[1].upload_id == "u2"
    assert plan.abort == (little,)


@pytest.mark.parametrize(
    "parts",
    [{1: Part(5 * MIB, "m")}, {5: Part(PART_BYTES, "m")}, {4: Part(PART_BYTES, "m")}],
    ids=["cut", "more", "last"],
)
def test_an_upload_with_another_part_size_is_not_used(parts: dict[int, Part]) -> None:
    begun = UnfinishedUpload(WEIGHTS.path, "u1", parts)
    plan = plan_push(FILES, {}, (begun,), None)
    assert plan.uploads[1].upload_id is None
    assert plan.abort == (begun,)


def test_uploads_of_missing_or_small_files_are_aborted() -> None:
    begun = (UnfinishedUpload("old.safetensors", "u1", PARTS), UnfinishedUpload(CONFIG.path, "u2", {}))
    assert plan_push(FILES, {}, begun, None).abort == begun


def test_foreign_objects_are_removed_and_the_manifest_first() -> None:
    plan = plan_push(
        FILES, {**THERE, "old.safetensors": RemoteObject(1, None)}, (), (*FILES, ModelFile("old", "0" * 64, 1))
    )
    assert plan.remove == ("old.safetensors",)
    assert plan.removes_manifest
    assert not plan.is_noop


def test_a_complete_model_of_other_content_differs_from_an_incomplete_one() -> None:
    assert replaces_model(FILES, (CONFIG,))
    assert not replaces_model(FILES, FILES)
    assert not replaces_model(FILES, None)


@given(st.integers(0, 5 * 1024 * MIB * 1024))
def test_parts_cover_a_file_once_and_are_few_enough(size: int) -> None:
    step = part_bytes(size)
    assert step % MIB == 0
    assert step >= PART_BYTES
    assert -(-size // step) <= MAX_PARTS
    if size < 100 * PART_BYTES:
        ranges = part_ranges(size)
        assert sum(end - start for _, start, end in ranges) == size
        assert [number for number, _, _ in ranges] == list(range(1, len(ranges) + 1))


def test_weights_are_taken_once() -> None:
    paths = [
        "config.json",
        "a.safetensors",
        "pytorch_model.bin",
        "original/params.json",
        ".git/HEAD",
        "a.safetensors.index.json",
    ]
    choice = select_files(paths, everything=False)
    assert choice.included == ("a.safetensors", "a.safetensors.index.json", "config.json")
    assert choice.excluded == ("original/params.json", "pytorch_model.bin")
    assert select_files(paths, everything=True).excluded == ()
    assert select_files(["config.json", "m.bin"], everything=False).included == ("config.json", "m.bin")


def test_files_that_vllm_cannot_load_are_no_model() -> None:
    assert "no file" in (model_fault([]) or "")
    assert "none of config.json" in (model_fault(["readme.md"]) or "")
    assert model_fault(["config.json"]) is None
    assert model_fault(["model-q4.gguf"]) is None


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("/models/tiny", "tiny"),
        ("/hub/models--Qwen--Qwen2.5-7B", "Qwen2.5-7B"),
        ("/hub/models--Qwen--Qwen2.5-7B/snapshots/abc", "Qwen2.5-7B"),
        ("/hub/models--gpt2/snapshots/abc", "gpt2"),
    ],
)
def test_a_model_is_named_after_its_folder(folder: str, name: str) -> None:
    assert default_name(PurePath(folder)) == name
