"""The bench of the router: a figure for every case, at every size."""

from __future__ import annotations

import pytest

from bench import choosing


def test_it_has_a_figure_for_every_case(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(choosing, "RUNS", 1)
    monkeypatch.setattr(choosing, "SIZES", (3, 20))
    choosing.main()
    header, *rows = capsys.readouterr().out.splitlines()
    assert "uneven loads" in header
    assert [row.split()[0] for row in rows] == ["3", "20"]
    assert all(0.1 < float(value) < 100_000 for row in rows for value in row.split()[1:])
