"""Feeds each parser with mutations of its seeds, and with the inputs that it once failed on (`corpus/<target>/`).

FUZZ_SECONDS=n: run each target for n seconds, with new examples each time (`make fuzz`); without it, a fixed number.
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
from tests.generated import examples

CORPUS = Path(__file__).parent / "corpus"
SECONDS = float(os.environ.get("FUZZ_SECONDS", "0"))
FIRST_SEED = int(os.environ.get("FUZZ_SEED", "0")) or time.time_ns() % 2**32
_EXAMPLES = examples(300)
_BATCH = 500


def corpus_of(name: str) -> tuple[bytes, ...]:
    """Return the inputs of a target's corpus."""
    return tuple(path.read_bytes() for path in sorted((CORPUS / name).glob("*")))


def check(name: str, target: Target, data: bytes) -> None:
    """Parse an input. Raises undocumented errors, after adding the input to the corpus if FUZZ_SECONDS is set."""
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
def test_seeds_corpus_and_extreme_inputs_raise_only_documented_errors(name: str) -> None:
    for data in (*TARGETS[name].seeds, *corpus_of(name), b"", b"\0", b"\xff" * 64, b"[" * 100_000):
        check(name, TARGETS[name], data)


@pytest.mark.hypothesis
@pytest.mark.timeout(0 if SECONDS else 300)
@pytest.mark.parametrize("name", TARGETS)
def test_mutated_inputs_raise_only_documented_errors(name: str) -> None:
    target = TARGETS[name]
    bytes_around = around((*target.seeds, *corpus_of(name)))
    health = list(HealthCheck)

    def run_examples(examples: int, number: int | None) -> None:
        @settings(
            max_examples=examples, suppress_health_check=health, database=None, phases=(Phase.generate, Phase.shrink)
        )
        @given(bytes_around)
        def run(data: bytes) -> None:
            check(name, target, data)

        (run if number is None else seed(number)(run))()

    if not SECONDS:
        run_examples(_EXAMPLES, None)
        return
    number, until = FIRST_SEED, time.monotonic() + SECONDS
    print(f"{name}: FUZZ_SEED={number}")
    while time.monotonic() < until:
        run_examples(_BATCH, number)
        number += 1
