"""Fixtures: pairs of an engine and a node, each started once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from local.engine_env import engine_environ
from tests.conformance.running import EnginePair, engine_pair, fake_engine_command_for, vllm_command


@pytest.fixture(scope="module")
def fake_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EnginePair]:
    with engine_pair(tmp_path_factory.mktemp("fake_engine"), fake_engine_command_for) as made:
        yield made


@pytest.fixture(scope="module")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EnginePair]:
    with pytest.MonkeyPatch.context() as patched:
        for name, value in engine_environ().items():
            patched.setenv(name, value)
        with engine_pair(tmp_path_factory.mktemp("vllm"), vllm_command) as made:
            yield made
