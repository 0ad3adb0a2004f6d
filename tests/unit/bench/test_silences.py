"""The table of the bench of silences."""

from __future__ import annotations

from rich.console import Console

from bench.silences import StreamSilence, report


def test_a_table_counts_silent_streams_by_the_length_of_the_silence() -> None:
    console = Console(record=True, width=120)
    console.print(
        report(
            {
                "one": [StreamSilence(2.0, 0.1), StreamSilence(4.0, 0.2)],
                "two": [StreamSilence(3.0, 2.5), StreamSilence(3.0, 0.4)],
            }
        )
    )
    one, two = (line.split() for line in console.export_text().splitlines() if line.startswith(("│ one", "│ two")))
    assert " ".join(one) == "│ one │ 0 of 2 │ 0.20 s │ 3.00 s │"
    assert " ".join(two) == "│ two │ 1 of 2 │ 2.50 s │ 3.00 s │"
