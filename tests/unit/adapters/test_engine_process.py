"""The engine's process group: ended as a whole, orphans of an earlier agent included."""

from __future__ import annotations

import asyncio
import mmap
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.adapters import engine_process
from node_agent.adapters.engine_output import KEPT_BYTES
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
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z"
    except OSError:
        return False


def test_the_whole_process_group_ends_and_its_note_is_removed(tmp_path: Path) -> None:
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


def test_a_process_that_ignores_sigterm_is_killed_after_the_grace(tmp_path: Path) -> None:
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


def test_a_note_of_another_boot_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "engine.group").write_text(f"another-boot {os.getpgid(0)}")
    asyncio.run(engine(tmp_path, CHILD).reap_orphans())  # would end this very test


def test_a_suspended_engine_is_seen_as_such(tmp_path: Path) -> None:
    async def story() -> list[bool]:
        group = engine(tmp_path, FAMILY)
        seen = [group.is_suspended()]
        await group.start()
        await up(tmp_path)
        number = int((tmp_path / "engine.group").read_text().split()[1])
        for sent in (signal.SIGSTOP, signal.SIGCONT):
            seen.append(group.is_suspended())
            os.killpg(number, sent)
            async with asyncio.timeout(10):
                while group.is_suspended() is (sent is signal.SIGCONT):  # noqa: ASYNC110 # the kernel has no event
                    await asyncio.sleep(0.01)
        seen.append(group.is_suspended())
        await group.stop(0.0)
        return seen

    assert asyncio.run(story()) == [False, False, True, False]


@pytest.mark.parametrize(
    ("before", "after", "had"),
    [
        (b"nr_free 1\noom_kill 3\n", b"nr_free 9\noom_kill 4\n", True),
        (b"oom_kill 3\n", b"oom_kill 3\n", False),
        (b"", b"\xff oom_kill", False),
        (b"oom_kill x\n", None, False),
    ],
)
def test_an_oom_kill_of_the_kernel_is_counted_from_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bytes, after: bytes | None, had: bool
) -> None:
    counters = tmp_path / "vmstat"
    counters.write_bytes(before)
    monkeypatch.setattr(engine_process, "_VM_COUNTERS", counters)

    async def story() -> bool:
        group = EngineProcess(["true"], os.environ, tmp_path / "engine.group")
        await group.start()
        if after is None:
            counters.unlink()
        else:
            counters.write_bytes(after)
        had = group.had_oom_kill()
        await group.stop(0.0)
        return had

    assert asyncio.run(story()) is had


def test_shared_memory_of_a_killed_engine_is_removed(tmp_path: Path) -> None:
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


SEGMENTS = (
    "import sys, time; from multiprocessing import resource_tracker, shared_memory as s\n"
    "mark = sys.argv[1].replace('/', '-')[-40:]\n"
    "held = [s.SharedMemory(name, create=True, size=16) for name in (f'vllm_offload_{mark}', f'named{mark}', None)]\n"
    "held[1].unlink()\n"
    "resource_tracker.unregister(held[0]._name, 'shared_memory')\n"
    "resource_tracker.unregister(held[2]._name, 'shared_memory')\n"
    "open(sys.argv[1] + '.names', 'w').write(' '.join(each.name for each in (held[0], held[2])))\n"
    "open(sys.argv[1], 'w').write('0'); time.sleep(300)"
)


def test_shared_memory_of_a_killed_agent_and_engine_is_removed_and_of_others_kept(
    tmp_path: Path,
) -> None:
    mark = f"{os.getpid()}-{tmp_path.name}"
    others = [Path(f"/dev/shm/psm_other-{mark}"), Path(f"/dev/shm/vllm_offload_other-{mark}")]

    async def story() -> tuple[list[Path], list[bool]]:
        for path in others:
            path.write_bytes(b"another process's")
        dead = engine(tmp_path, SEGMENTS)
        await dead.start()
        await up(tmp_path)
        dead.note_shared_memory()
        left = [Path("/dev/shm") / name for name in (tmp_path / "up.names").read_text().split()]
        os.killpg(int((tmp_path / "engine.group").read_text().split()[1]), signal.SIGKILL)
        await dead.wait()
        before = [path.exists() for path in left]
        later = EngineProcess(["true"], os.environ, tmp_path / "engine.group")
        await later.start()  # a new agent
        await later.stop(0.0)
        return left, before

    try:
        left, before = asyncio.run(story())
        assert before == [True, True], "what the test needs: a killed engine leaves both"
        assert [path.exists() for path in left] == [False, False]
        assert [path.read_bytes() for path in others] == [b"another process's"] * 2
    finally:
        for path in others:
            path.unlink(missing_ok=True)


def test_shared_memory_that_another_process_has_mapped_stays(tmp_path: Path) -> None:
    """A segment of the engine's that another living process uses."""
    path = Path(f"/dev/shm/psm_shared-{os.getpid()}")
    code = (
        f"import mmap, sys, time; f = open({str(path)!r}, 'w+b'); f.truncate(4096); m = mmap.mmap(f.fileno(), 4096)\n"
        "open(sys.argv[1], 'w').write('0'); time.sleep(300)"
    )

    async def story() -> None:
        group = engine(tmp_path, code)
        await group.start()
        await up(tmp_path)
        group.note_shared_memory()
        descriptor = os.open(path, os.O_RDWR)
        with mmap.mmap(descriptor, 4096):
            os.close(descriptor)
            await group.stop(0.0)
            assert os.access(path, os.F_OK)

    async def begin_again() -> None:
        later = EngineProcess(["true"], os.environ, tmp_path / "engine.group")
        await later.start()
        await later.stop(0.0)

    try:
        asyncio.run(story())
        asyncio.run(begin_again())
        assert not path.exists(), "nobody has it mapped any more"
    finally:
        path.unlink(missing_ok=True)


@pytest.mark.parametrize("name", ["xmodèle-année-été".encode(), b"\xff\xfe) Z 1 1 (", b"a b\n) R"])
def test_processes_of_the_host_may_have_names_in_any_bytes(tmp_path: Path, name: bytes) -> None:
    """Another's process beside the engine, and the engine's own: its group is still known."""
    program = os.path.join(os.fsencode(tmp_path), name)
    os.symlink(sys.executable, program)
    code = "import time; time.sleep(300)"

    async def story() -> None:
        other = await asyncio.create_subprocess_exec(program, "-c", code)
        group = EngineProcess([os.fsdecode(program), "-c", CHILD], os.environ, tmp_path / "engine.group")
        await group.start()
        number = int((tmp_path / "engine.group").read_text().split()[1])
        group.note_shared_memory()
        os.killpg(number, signal.SIGSTOP)
        async with asyncio.timeout(10):
            while not group.is_suspended():  # noqa: ASYNC110 # the kernel has no event
                await asyncio.sleep(0.01)
        await group.stop(0.0)
        assert not lives(number)
        assert lives(other.pid)
        other.kill()
        await other.wait()

    asyncio.run(story())


def test_files_of_shared_memory_may_have_names_in_any_bytes(tmp_path: Path) -> None:
    path = b"/dev/shm/" + f"psm_{os.getpid()}-".encode() + b"\xff\xe9 a\nb"
    code = (
        f"import mmap, sys, time; f = open({path!r}, 'w+b'); f.truncate(4096); m = mmap.mmap(f.fileno(), 4096)\n"
        "open(sys.argv[1], 'w').write('0'); time.sleep(300)"
    )

    async def story() -> None:
        group = engine(tmp_path, code)
        await group.start()
        await up(tmp_path)
        group.note_shared_memory()
        await group.stop(0.0)

    try:
        asyncio.run(story())
        assert not os.path.exists(path)
    finally:
        if os.path.exists(path):
            os.unlink(path)


RUBBISH = st.binary(max_size=60) | st.sampled_from([
    b"", b"null", b"{}", b"[1]", b'[["../x",1]]', b'[["/etc/x",1]]', b'[["..",1]]', b'[["a\\u0000",1]]', b'[["a","1"]]',
    b"[" * 9000, b'[["\\ud800",1]]',
])  # fmt: skip


@given(RUBBISH, RUBBISH)
def test_unreadable_notes_are_ignored(group: bytes, shared: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "engine.group"
        file.write_bytes(group)
        file.with_suffix(".shm").write_bytes(shared)
        asyncio.run(EngineProcess(["true"], {}, file).reap_orphans())


def test_a_full_disk_does_not_end_the_engine(tmp_path: Path) -> None:
    async def story() -> None:
        group = EngineProcess([sys.executable, "-c", CHILD], os.environ, tmp_path / "not there" / "engine.group")
        await group.start()
        group.note_shared_memory()
        await group.stop(0.0)

    asyncio.run(story())


def test_a_missing_command_is_an_oserror(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nonexistent"):
        asyncio.run(EngineProcess(["/nonexistent/vllm"], {}, tmp_path / "g").start())


def output_of(folder: Path, code: str) -> str:
    async def story() -> str:
        group = engine(folder, code)
        await group.start()
        await group.wait()
        await group.stop(0.0)
        return group.last_output()

    return asyncio.run(story())


def test_the_output_is_passed_on_and_its_end_is_kept_with_that_of_children(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code = (
        "import subprocess, sys\n"
        "print('to stdout', flush=True)\n"
        "subprocess.run([sys.executable, '-c', 'raise ValueError(1)'])\n"
        "sys.exit('RuntimeError: see above')"
    )
    kept = output_of(tmp_path, code)
    assert kept.startswith("to stdout\n")
    assert kept.endswith("ValueError: 1\nRuntimeError: see above\n")
    assert kept in capfd.readouterr().out


def test_a_long_output_is_passed_on_whole_and_only_its_end_is_kept(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    kept = output_of(tmp_path, "import sys; sys.stdout.write('x' * 3_000_000); sys.stdout.write('the end')")
    assert len(kept) == KEPT_BYTES
    assert kept.endswith("the end")
    assert len(capfd.readouterr().out) == 3_000_007


def test_a_process_that_left_the_group_does_not_delay_the_last_output(tmp_path: Path) -> None:
    """It still has the pipe, and nobody knows of it."""
    code = (
        "import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(20)'], "
        "start_new_session=True); print(child.pid)"
    )
    began = time.monotonic()
    kept = output_of(tmp_path, code)
    os.kill(int(kept), signal.SIGKILL)
    assert time.monotonic() - began < 15


def test_an_engine_that_was_never_started_has_no_output(tmp_path: Path) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    group = EngineProcess(["/nonexistent/vllm"], {}, tmp_path / "g")
    with pytest.raises(OSError, match="nonexistent"):
        asyncio.run(group.start())
    assert group.last_output() == ""
    assert len(os.listdir("/proc/self/fd")) <= descriptors
