"""The disk of the state directory is full or read-only: its files improve a restart, and serving needs none of them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import uvloop

from tests.faults.load import LoadGenerator
from tests.scenarios.local_fleet import eventually, local_fleet


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Mount a file system of 64 KiB for the block. Skips the test, with the reason, if this user may not mount."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("full disks are not tried: mounting a small tmpfs takes root")
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"full disks are not tried: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> None:
    with (folder / "ballast").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"x" * 4096):
            pass


@pytest.mark.parametrize("when", ["before", "while"])
@pytest.mark.parametrize("what", ["full", "read-only"])
def test_a_full_or_read_only_disk_ends_no_node(what: str, when: str, tmp_path: Path) -> None:
    def break_disk(disk: Path) -> None:
        if what == "full":
            fill(disk)
        else:
            subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)

    async def scenario(disk: Path) -> None:
        if when == "before":
            break_disk(disk)
        async with local_fleet(disk, 2, seconds_per_token=0.002) as fleet:
            load = LoadGenerator(fleet)
            await load.everywhere(fleet.nodes, 1)
            if when == "while":
                victim = fleet.nodes[0]
                group = (victim.state_dir / "engine.group").read_text()
                break_disk(disk)
                await load.everywhere(fleet.nodes, 1)
                os.killpg(int(group.split()[1]), 9)  # it restarts although its process group cannot be recorded
                await load.everywhere([fleet.nodes[1]], 1)
                await eventually("the node serves again", partial(fleet.ready, victim))
            await load.everywhere(fleet.nodes, 1)

    with small_disk(tmp_path / "disk") as disk, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario(disk))
