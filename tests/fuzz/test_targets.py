"""Each parser takes what hypothesis makes of its seeds, and all that it once failed on (`corpus/<target>/`).

FUZZ_SECONDS=n: as long as that for each target, new examples each time (`make fuzz`); without it, a fixed number.
"""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz.mutate import around
from tests.fuzz.targets import TARGETS, Target

CORPUS = Path(__file__).parent / "corpus"
SECONDS = float(os.environ.get("FUZZ_SECONDS", "0"))
FIRST_SEED = int(os.environ.get("FUZZ_SEED", "0")) or time.time_ns() % 2**32
_EXAMPLES = 150
_BATCH = 500


def kept(name: str) -> tuple[bytes, ...]:
    """Inputs of a target that are kept in the repository."""
    return tuple(path.read_bytes() for path in sorted((CORPUS / name).glob("*")))


def take(name: str, target: Target, data: bytes) -> None:
    """Raises what the parser does not document, and keeps the input that did it."""
    try:
        target.parse(data)
    except target.expected:
        return
    except BaseException:
        if SECONDS:
            folder = CORPUS / name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
        raise


@pytest.mark.parametrize("name", TARGETS)
def test_what_was_once_too_much_is_taken(name: str) -> None:
    for data in (*TARGETS[name].seeds, *kept(name), b"", b"\0", b"\xff" * 64, b"[" * 100_000):
        take(name, TARGETS[name], data)


@pytest.mark.timeout(0 if SECONDS else 300)
@pytest.mark.parametrize("name", TARGETS)
def test_any_bytes_are_taken_or_refused_as_the_parser_says(name: str) -> None:
    target = TARGETS[name]
    bytes_around = around((*target.seeds, *kept(name)))
    health = list(HealthCheck)

    def play(examples: int, number: int | None) -> None:
        @settings(
            max_examples=examples, suppress_health_check=health, database=None, phases=(Phase.generate, Phase.shrink)
        )
        @given(bytes_around)
        def run(data: bytes) -> None:
            take(name, target, data)

        (run if number is None else seed(number)(run))()

    if not SECONDS:
        play(_EXAMPLES, None)
        return
    number, until = FIRST_SEED, time.monotonic() + SECONDS
    print(f"{name}: FUZZ_SEED={number}")
    while time.monotonic() < until:
        play(_BATCH, number)
        number += 1
