"""The synthesized templates, once each: default settings, every feature enabled, and for the embedded AWS."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from checks.assemblies import EVERYTHING, SHIPPED, Synthesized, synthesize


@pytest.fixture(scope="session")
def production(tmp_path_factory: pytest.TempPathFactory) -> Synthesized:
    return synthesize(tmp_path_factory.mktemp("production"), SHIPPED)


@pytest.fixture(scope="session")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Synthesized:
    return synthesize(tmp_path_factory.mktemp("everything"), EVERYTHING)


@pytest.fixture(scope="session")
def local(tmp_path_factory: pytest.TempPathFactory) -> Synthesized:
    return synthesize(tmp_path_factory.mktemp("local"), replace(SHIPPED, local=True))


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
