"""The engine in its own unit: real launchers, which a socket starts as systemd does."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import uvloop

from node_agent import engine_launcher
from node_agent.adapters.engine_unit import EngineUnit
from stacks.constructs.artifact import ROOT
from tests.unit.adapters.test_engine_process import CHILD, FAMILY, STUBBORN, lives, up

AGENT = (
    "import asyncio, pathlib, sys; from node_agent.adapters.engine_unit import EngineUnit\n"
    "async def run():\n"
    "    await EngineUnit(sys.argv[2:], {}, pathlib.Path(sys.argv[1])).start()\n"
    "    await asyncio.sleep(300)\n"
    "asyncio.run(run())"
)
LAUNCH = 'export LISTEN_PID=$$ LISTEN_FDS=1; exec "$0" -m node_agent.engine_launcher 3<&"$1"'


class Unit:
    """Systemd's part: a socket that starts one launcher when an agent connects, and the next when that has ended."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "engine.sock"
        self.launchers: list[subprocess.Popen[bytes]] = []
        self._folder = folder
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._activate)

    def engine(self, code: str, **environ: str) -> EngineUnit:
        return EngineUnit([sys.executable, "-c", code, str(self._folder / "up")], environ, self.path, start_s=20.0)

    def _activate(self) -> None:
        while not self._closed.is_set():
            if not select.select([self._listener], [], [], 0.02)[0]:
                continue
            number = self._listener.fileno()
            environ = {
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "RUNTIME_DIRECTORY": str(self._folder),
                "OF_THE_UNIT": "1",
            }
            environ["SYNKTI_ENGINE_METADATA"] = "needed"  # no network in unit tests
            command = ["bash", "-c", LAUNCH, sys.executable, str(number)]
            self.launchers.append(subprocess.Popen(command, env=environ, pass_fds=[number]))
            self.launchers[-1].wait()

    def __enter__(self) -> Unit:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        for launcher in self.launchers:
            launcher.kill()
        self._thread.join()
        self._listener.close()


@pytest.fixture
def unit(tmp_path: Path) -> Iterator[Unit]:
    with Unit(tmp_path) as made:
        yield made


@contextlib.asynccontextmanager
async def running(group: EngineUnit) -> AsyncIterator[None]:
    await group.start()
    try:
        yield
    finally:
        await group.stop(0.0)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_the_agent_starts_reads_and_stops_an_engine_of_another_unit(unit: Unit, tmp_path: Path, run, capfd) -> None:  # type: ignore[no-untyped-def]
    async def story() -> None:
        group = unit.engine(f"print('of the engine', flush=True); {FAMILY}".replace("; import", "\nimport"))
        await group.start()
        child = await up(tmp_path)
        assert lives(child)
        await group.stop(2.0)
        assert not lives(child)
        assert group.last_output() == "of the engine\n"
        await group.stop(2.0)  # nothing is left: nothing happens

    run(story())
    assert capfd.readouterr().out == "of the engine\n", "the engine's output goes to the agent's own"


@pytest.mark.parametrize(
    ("code", "status"), [("raise SystemExit(3)", 3), ("import os; os.kill(os.getpid(), 11)", -11), ("", 0)]
)
def test_the_engines_exit_status_and_its_last_output_arrive(unit: Unit, code: str, status: int) -> None:
    async def story() -> None:
        group = unit.engine(f"print('last words', flush=True)\n{code}")
        async with running(group):
            assert await group.wait() == status
            assert await group.wait() == status, "each caller gets it"
        assert group.last_output() == "last words\n"

    asyncio.run(story())


def test_an_engine_has_the_variables_of_its_unit_and_those_that_the_agent_sends(unit: Unit) -> None:
    async def story() -> str:
        code = (
            "import os; print(os.environ['OF_THE_UNIT'], os.environ['SENT'], [n for n in os.environ if 'LISTEN' in n])"
        )
        group = unit.engine(code, SENT="2")
        async with running(group):
            await group.wait()
        return group.last_output()

    assert asyncio.run(story()) == "1 2 []\n"


def test_a_process_that_ignores_sigterm_is_killed_after_the_grace(unit: Unit, tmp_path: Path) -> None:
    async def story() -> None:
        group = unit.engine(STUBBORN)
        await group.start()
        await up(tmp_path)
        await group.stop(0.1)
        assert await asyncio.to_thread(unit.launchers[0].wait, 10) == 0

    asyncio.run(story())


def test_a_command_that_does_not_exist_is_an_os_error_with_its_name(unit: Unit) -> None:
    group = EngineUnit(["/no/such/vllm"], {}, unit.path)
    with pytest.raises(OSError, match=r"the engine's unit cannot start it: .*/no/such/vllm"):
        asyncio.run(group.start())


def test_an_agent_that_dies_ends_its_engine_and_the_next_agent_starts_another(unit: Unit, tmp_path: Path) -> None:
    async def later_agent() -> int:
        (tmp_path / "up").unlink()
        async with running(unit.engine(FAMILY)):
            assert not lives(orphan), "the second waited for the first one's end"
            return await up(tmp_path)

    agent = subprocess.Popen(
        [sys.executable, "-c", AGENT, str(unit.path), sys.executable, "-c", FAMILY, str(tmp_path / "up")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    asyncio.run(up(tmp_path))
    agent.kill()
    agent.wait()
    orphan = int((tmp_path / "up").read_text())
    assert asyncio.run(later_agent()) != orphan


def test_a_killed_launcher_counts_as_a_killed_engine(unit: Unit, tmp_path: Path) -> None:
    """Where the kernel is out of memory, it ends all processes of the unit, and no report arrives."""

    async def story() -> int:
        group = unit.engine(CHILD)
        async with running(group):
            engine = int((tmp_path / "engine.group").read_text().split()[1])
            unit.launchers[0].kill()
            status = await group.wait()
            os.killpg(engine, signal.SIGKILL)  # systemd's part
            return status

    assert asyncio.run(story()) == -signal.SIGKILL


def test_sigterm_ends_the_engine_before_its_launcher(unit: Unit, tmp_path: Path) -> None:
    async def story() -> None:
        group = unit.engine(FAMILY)
        await group.start()
        child = await up(tmp_path)
        unit.launchers[0].terminate()
        assert await group.wait() == -signal.SIGKILL
        assert await asyncio.to_thread(unit.launchers[0].wait, 10) == 0
        assert not lives(child)
        await group.stop(0.0)

    asyncio.run(story())


def test_a_suspended_engine_is_seen_as_such(unit: Unit, tmp_path: Path) -> None:
    async def story() -> list[bool]:
        group = unit.engine(FAMILY)
        seen = [group.is_suspended()]
        async with running(group):
            await up(tmp_path)
            number = int((tmp_path / "engine.group").read_text().split()[1])
            for sent in (signal.SIGSTOP, signal.SIGCONT):
                seen.append(group.is_suspended())
                os.killpg(number, sent)
                async with asyncio.timeout(10):
                    while group.is_suspended() is (sent is signal.SIGCONT):  # noqa: ASYNC110 # the kernel has no event
                        await asyncio.sleep(0.01)
            seen.append(group.is_suspended())
        return seen

    assert asyncio.run(story()) == [False, False, True, False]


@contextlib.contextmanager
def false_launcher(folder: Path, *lines: bytes) -> Iterator[EngineUnit]:
    """A compromised launcher: it sends these lines, and keeps the connection."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "false.sock"))
    listener.listen()
    held: list[socket.socket] = []

    def answer() -> None:
        with contextlib.suppress(OSError):
            held.append(listener.accept()[0])
            for line in lines:
                held[0].sendall(line)

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        yield EngineUnit(["true"], {}, folder / "false.sock", start_s=0.5)
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        for each in (*held, listener):
            each.close()


@pytest.mark.parametrize("lines", [(), (b"started 1\n",), (b"\xff\xff\n",), (b"x" * 100_000,), (b"ended 0\n",)])
def test_a_launcher_that_does_not_start_the_engine_is_an_os_error(tmp_path: Path, lines: tuple[bytes, ...]) -> None:
    with false_launcher(tmp_path, *lines) as group, pytest.raises(OSError, match="unit"):
        asyncio.run(group.start())


def test_a_launcher_that_lies_later_ends_its_own_engine_only(tmp_path: Path) -> None:
    async def story(group: EngineUnit) -> int:
        await group.start()
        status = await group.wait()
        await group.stop(0.0)
        return status

    with false_launcher(tmp_path, b"started 4711\n", b"ended 10000\n") as group:
        assert asyncio.run(story(group)) == -signal.SIGKILL


def test_a_launcher_that_does_not_stop_is_left_to_systemd(tmp_path: Path, caplog, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("node_agent.adapters.engine_unit.KILLED_S", 0.1)
    monkeypatch.setattr("node_agent.adapters.engine_unit._STOP_MARGIN_S", 0.1)

    async def story(group: EngineUnit) -> None:
        await group.start()
        await group.stop(0.0)

    with false_launcher(tmp_path, b"started 4711\n") as group:
        asyncio.run(story(group))
    assert "systemd ends it with this agent" in caplog.text


def test_without_a_unit_the_error_names_its_socket(tmp_path: Path) -> None:
    group = EngineUnit(["true"], {}, tmp_path / "none.sock")
    with pytest.raises(OSError, match=r"the engine's unit cannot be reached: .*none\.sock: No such file"):
        asyncio.run(group.start())


def test_a_launcher_without_a_socket_is_refused(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.delenv("LISTEN_PID", raising=False)
    assert engine_launcher.main() == engine_launcher.EXIT_USAGE
    assert "synkti-engine.socket" in capsys.readouterr().err


def _send_and_end(client: socket.socket, sent: bytes) -> None:
    with contextlib.suppress(OSError):  # it is not read to its end
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("sent", [b"", b"{}\n", b"not json\n", b"x" * 200_000])
def test_a_launcher_starts_nothing_for_a_malformed_request(sent: bytes, tmp_path: Path, caplog) -> None:  # type: ignore[no-untyped-def]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "s"))
            sending = threading.Thread(target=_send_and_end, args=(client, sent))
            sending.start()
            engine_launcher.serve_one(listener, {})
            sending.join()
    assert "no request to start an engine" in caplog.text


def test_a_reachable_metadata_service_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as imds:
        assert engine_launcher.warn_of_metadata(imds.getsockname())
        address = imds.getsockname()
    assert "the engine can reach the instance's metadata" in caplog.text
    assert not engine_launcher.warn_of_metadata(address)
