"""How a bench's command ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from bench.command import RunFolder, run, table
from local.errors import LocalRunError, UserActionRequired
from local.process_cleanup import start
from node_agent.core.failure.loss import LossReason
from node_agent.ports import ExchangeLost


@pytest.mark.parametrize(
    ("error", "code", "printed"),
    [
        (None, 0, ""),
        (LocalRunError("it broke"), 1, "it broke"),
        (ExchangeLost(LossReason.RESET), 1, "the exchange was lost: reset"),
        (UserActionRequired("mend it"), 2, "mend it"),
        (KeyboardInterrupt(), 130, "stopped"),
    ],
)
def test_the_exit_code_is_that_of_the_outcome_and_nothing_is_left(
    error: BaseException | None, code: int, printed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[subprocess.Popen[bytes]] = []

    def act(stage: RunFolder) -> None:
        sleeps = [sys.executable, "-c", "import time; time.sleep(600)"]
        started.append(start(sleeps, stage.folder, {}, tmp_path / "log"))
        if error is not None:
            raise error

    assert run("name", tmp_path, act) == code
    assert started[0].wait(timeout=10) == -9
    assert list((tmp_path / "name").iterdir()) == []
    assert capsys.readouterr().out.rstrip().endswith(printed)


def test_numbers_are_right_aligned_and_names_left() -> None:
    made = table("a title", ("name", "figure"), [["long name", "1"], ["n", "1234567890"]], names=1)
    console = Console(width=60)
    with console.capture() as capture:
        console.print(made)
    lines = capture.get().splitlines()
    assert lines[0].startswith("a title")
    assert any("long name" in line and line.rstrip(" │").endswith("         1") for line in lines)
    assert any(line.startswith("│ n  ") for line in lines)
