"""Test what a node still has to fetch, and whether it loads from the disk or from S3."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.contract.models import ModelFile
from node_agent.core.node.model_download_plan import (
    RANGE_BYTES,
    OnDisk,
    Verified,
    missing_ranges,
    plan_download,
    ranges,
)
from node_agent.core.node.model_load_plan import Machine, ModelLoad, plan_load

SHA = "a" * 64
OTHER = "b" * 64


Files = tuple[ModelFile, ...]
CONFIG, WEIGHTS = ModelFile("config.json", SHA, 3), ModelFile("w.safetensors", SHA, 9)
WHOLE = (CONFIG, WEIGHTS)


def test_an_empty_folder_gets_everything() -> None:
    plan = plan_download(WHOLE, {}, {})
    assert plan.fetch == (CONFIG, WEIGHTS)
    assert [*plan.keep, *plan.compare, *plan.remove] == []


def test_a_verified_file_that_did_not_change_is_kept() -> None:
    disk = {"config.json": OnDisk(3, 7), "w.safetensors": OnDisk(9, 8)}
    notes = {"config.json": Verified(3, 7, SHA), "w.safetensors": Verified(9, 8, SHA)}
    assert plan_download(WHOLE, disk, notes).keep == (CONFIG, WEIGHTS)


@pytest.mark.parametrize("note", [None, Verified(9, 7, SHA), Verified(9, 8, OTHER), Verified(8, 8, SHA)])
def test_a_file_that_was_never_verified_is_compared(note: Verified | None) -> None:
    disk = {"config.json": OnDisk(3, 7), "w.safetensors": OnDisk(9, 8)}
    notes = {"w.safetensors": note} if note else {}
    assert plan_download(WHOLE, disk, notes).compare == (CONFIG, WEIGHTS)


def test_a_file_of_another_length_is_fetched_without_reading_it() -> None:
    disk = {"config.json": OnDisk(3, 7), "w.safetensors": OnDisk(8, 8)}
    plan = plan_download(WHOLE, disk, {"config.json": Verified(3, 7, SHA)})
    assert (plan.keep, plan.fetch) == ((CONFIG,), (WEIGHTS,))


def test_files_outside_the_manifest_are_removed_and_usable_partial_files_are_kept() -> None:
    names = ("old.safetensors", "old.safetensors.part", "w.safetensors.part", "w.safetensors.part.done")
    plan = plan_download(WHOLE, {name: OnDisk(1, 1) for name in names}, {})
    assert plan.remove == ("old.safetensors", "old.safetensors.part")


def test_partial_files_of_a_complete_file_are_removed() -> None:
    disk = {"w.safetensors": OnDisk(9, 8), "w.safetensors.part": OnDisk(9, 8)}
    assert plan_download(WHOLE, disk, {}).remove == ("w.safetensors.part",)


@given(st.integers(0, 5 * RANGE_BYTES), st.frozensets(st.integers(0, 5).map(lambda n: n * RANGE_BYTES)))
def test_ranges_cover_a_file_once(size: int, done: frozenset[int]) -> None:
    every = ranges(size)
    assert sum(end - start for start, end in every) == size
    assert all(0 < end - start <= RANGE_BYTES for start, end in every)
    assert [end for _, end in every[:-1]] == [start for start, _ in every[1:]]
    assert set(missing_ranges(size, done)) == {each for each in every if each[0] not in done}


def load(wanted: ModelLoad, gpus: int = 1, model: Files = WHOLE) -> tuple[ModelLoad, str, str]:
    plan = plan_load(wanted, Machine(gpus, 0), model, "bucket", "tiny", "/opt/tiny")
    return plan.load, plan.model, plan.reason


def test_the_disk_is_the_default() -> None:
    assert load(ModelLoad.DOWNLOAD) == (ModelLoad.DOWNLOAD, "/opt/tiny", "model_load=download")


def test_streaming_is_for_safetensors_and_a_gpu() -> None:
    assert load(ModelLoad.STREAM) == (ModelLoad.STREAM, "s3://bucket/models/tiny", "model_load=stream")
    assert "has none" in load(ModelLoad.STREAM, gpus=0)[2]
    assert "the model has none" in load(ModelLoad.STREAM, model=(CONFIG,))[2]
    assert "there is w.bin" in load(ModelLoad.STREAM, model=(ModelFile("w.bin", SHA, 3), WEIGHTS))[2]
    for plan in (load(ModelLoad.STREAM, gpus=0), load(ModelLoad.STREAM, model=(CONFIG,))):
        assert plan[:2] == (ModelLoad.DOWNLOAD, "/opt/tiny")


def test_only_the_streamer_needs_arguments() -> None:
    for wanted, arguments in ((ModelLoad.DOWNLOAD, ()), (ModelLoad.STREAM, ("--load-format", "runai_streamer"))):
        plan = plan_load(wanted, Machine(1, 0), WHOLE, "bucket", "tiny", "/opt/tiny")
        assert plan.arguments == arguments


@pytest.mark.parametrize(
    ("given", "added"),
    [
        ((), ("--model-loader-extra-config", '{"memory_limit": 4294967296}')),
        (("--max-model-len", "8192"), ("--model-loader-extra-config", '{"memory_limit": 4294967296}')),
        (("--model-loader-extra-config", '{"concurrency": 4}'), ()),
        (('--model-loader-extra-config={"memory_limit": 0}',), ()),
    ],
)
def test_the_streamers_buffer_is_a_fourth_of_the_memory_unless_configured(
    given: tuple[str, ...], added: tuple[str, ...]
) -> None:
    """Its own default is unlimited: a model of 16 GB would not fit beside anything on a machine of 16 GiB."""
    plan = plan_load(ModelLoad.STREAM, Machine(1, 16 * 2**30), WHOLE, "bucket", "tiny", "/opt/tiny", given)
    assert plan.arguments == ("--load-format", "runai_streamer", *added)
