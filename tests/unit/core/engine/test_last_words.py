"""An engine's last words, from the lines that vLLM writes when it cannot start."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.core.engine.last_words import MAX_WORDS, last_words

CORE = "(EngineCore_DP0 pid=712) ERROR 11-30 03:12:01 [core.py:842] "
KV = (
    "ValueError: To serve at least one request with the models's max seq len (131072), (16.0 GiB KV cache is needed, "
    "which is larger than the available KV cache memory (4.9 GiB)."
)
GENERAL = "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}"
CASES = [
    (f"{CORE}EngineCore failed to start.\n{CORE}Traceback\n{CORE}{KV}\nTraceback\n{GENERAL}\n", 1, KV, True),
    (
        "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig\n"
        "  Value error, The model's dtype bfloat16 needs compute capability 8.0 [type=value_error, input_value=...]\n",
        1,
        "ValidationError: The model's dtype bfloat16 needs compute capability 8.0",
        True,
    ),
    (
        "usage: vllm serve\nvllm serve: error: unrecognized arguments: --x\n",
        2,
        "unrecognized arguments: --x",
        True,
    ),
    (
        f"{CORE}ValueError: Free memory on device (2.1/22.3 GiB) on startup is less than desired\n{GENERAL}",
        1,
        "ValueError: Free memory on device (2.1/22.3 GiB) on startup is less than desired",
        False,
    ),
    ("torch.OutOfMemoryError: CUDA out of memory.\n", 1, "OutOfMemoryError: CUDA out of memory.", False),
    (GENERAL, 1, GENERAL, False),
    (f"{CORE}{KV}", -9, KV, False),  # killed: not by its own error
]


@pytest.mark.parametrize(("output", "status", "text", "permanent"), CASES)
def test_the_root_cause_is_found_and_whether_another_start_could_help(
    output: str, status: int, text: str, permanent: bool
) -> None:
    found = last_words(output, status)
    assert found is not None
    assert (found.text, found.is_permanent) == (text, permanent)


@pytest.mark.parametrize("output", ["", "INFO 11-30 engine started", "the word Error: in a sentence", "ERRORS: none"])
def test_an_output_without_an_error_has_no_last_words(output: str) -> None:
    assert last_words(output, 1) is None


@given(st.text(), st.integers(-64, 255))
def test_any_output_gives_bounded_printable_words(noise: str, status: int) -> None:
    found = last_words(f"{noise}\nValueError: {noise * 3}\n{noise}", status)
    assert found is None or (len(found.text) <= MAX_WORDS and found.text.isprintable())
