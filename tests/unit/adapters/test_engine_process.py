"""The engine's process group: ended as a whole, orphans of an earlier agent included."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from node_agent.adapters.engine_process import EngineProcess

CHILD = "import time; time.sleep(300)"
FAMILY = (
    "import subprocess, sys, time\n"
    f"child = subprocess.Popen([sys.executable, '-c', {CHILD!r}])\n"
    "open(sys.argv[1], 'w').write(str(child.pid))\n"
    "time.sleep(300)"
)
STUBBORN = (
    "import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); open(sys.argv[1], 'w').write('0'); "
    "time.sleep(300)"
)


def engine(folder: Path, code: str) -> EngineProcess:
    return EngineProcess([sys.executable, "-c", code, str(folder / "up")], os.environ, folder / "engine.group")


async def up(folder: Path) -> int:
    """What the engine wrote when it was up."""
    give_up_at = time.monotonic() + 10
    while not (folder / "up").exists() or not (folder / "up").read_text():
        assert time.monotonic() < give_up_at, "the engine did not come up"
        await asyncio.sleep(0.01)
    return int((folder / "up").read_text())


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_the_whole_group_ends_and_its_note_with_it(tmp_path: Path) -> None:
    async def story() -> None:
        group = engine(tmp_path, FAMILY)
        await group.start()
        child = await up(tmp_path)
        assert lives(child)
        await group.stop(2.0)
        assert not lives(child)
        assert not (tmp_path / "engine.group").exists()
        await group.stop(2.0)  # nothing is left: nothing happens

    asyncio.run(story())


def test_what_does_not_heed_sigterm_is_killed_after_the_grace(tmp_path: Path) -> None:
    async def story() -> None:
        group = engine(tmp_path, STUBBORN)
        await group.start()
        await up(tmp_path)
        await group.stop(0.1)
        assert not (tmp_path / "engine.group").exists()

    asyncio.run(story())


def test_an_engine_that_outlived_its_agent_is_ended_before_a_new_one_starts(tmp_path: Path) -> None:
    async def story() -> None:
        await engine(tmp_path, FAMILY).start()
        orphan = await up(tmp_path)
        # Its agent died without a word; so, here, did the API server. The child is what holds the memory.
        os.kill(int((tmp_path / "engine.group").read_text().split()[1]), signal.SIGKILL)
        (tmp_path / "up").unlink()
        later = engine(tmp_path, FAMILY)
        await later.start()
        assert not lives(orphan)
        await up(tmp_path)
        await later.stop(0.0)

    asyncio.run(story())


def test_a_note_of_another_boot_is_nobodys(tmp_path: Path) -> None:
    (tmp_path / "engine.group").write_text(f"another-boot {os.getpgid(0)}")
    asyncio.run(engine(tmp_path, CHILD).reap_orphans())  # would end this very test


def test_shared_memory_that_a_killed_engine_mapped_goes_with_it(tmp_path: Path) -> None:
    code = (
        "import sys, time; from multiprocessing import shared_memory as s\n"
        "block = s.SharedMemory(create=True, size=16)\n"
        "open(sys.argv[1], 'w').write('0'); open(sys.argv[1] + '.name', 'w').write(block.name); time.sleep(300)"
    )

    async def story() -> Path:
        group = engine(tmp_path, code)
        await group.start()
        await up(tmp_path)
        block = Path("/dev/shm") / (tmp_path / "up.name").read_text()
        assert block.exists()
        group.note_shared_memory()
        await group.stop(0.0)
        return block

    assert not asyncio.run(story()).exists()


def test_a_command_that_is_not_there_is_an_oserror(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nonexistent"):
        asyncio.run(EngineProcess(["/nonexistent/vllm"], {}, tmp_path / "g").start())
