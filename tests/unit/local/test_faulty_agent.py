"""Faults that a file switches: read now and then, absent means none, and what is switched off is off."""

from __future__ import annotations

import json
from pathlib import Path

from local.faulty_agent import FILE, ClosedLink, FaultFile, write_faults


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_without_a_file_nothing_is_different(tmp_path: Path) -> None:
    assert FaultFile(tmp_path / FILE, Clock()).get("clock_s") == 0.0


def test_a_fault_is_switched_on_and_off(tmp_path: Path) -> None:
    clock = Clock()
    faults = FaultFile(tmp_path / FILE, clock)
    write_faults(tmp_path, clock_s=-45.0)
    assert faults.get("clock_s") == -45.0
    write_faults(tmp_path)
    assert faults.get("clock_s") == -45.0, "the file is not read at every look at the clock"
    clock.now += 1.0
    assert faults.get("clock_s") == 0.0
    assert json.loads((tmp_path / FILE).read_text()) == {}


def test_a_link_is_closed_at_its_first_bytes() -> None:
    closed: list[bool] = []

    class Transport:
        def abort(self) -> None:
            closed.append(True)

    ClosedLink(Transport()).data_received(b"hello")  # type: ignore[arg-type] # it needs no more of one
    assert closed == [True]
