"""One fleet for all abuse tests that every node has to survive."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.abuse.fleet import AbusedNode, abused_fleet

UNREAD_S = 2
SLOTS = 40


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[AbusedNode]]:
    """Run three nodes with short timeouts, so that no test waits for minutes."""
    with abused_fleet(
        tmp_path_factory.mktemp("fleet"),
        3,
        SYNKTI_UNREAD_S=str(UNREAD_S),
        SYNKTI_MAX_STREAMS=str(SLOTS),
        SYNKTI_MAX_CONNECTIONS_PER_ADDRESS="300",
        SYNKTI_MAX_BODIES_BYTES=str(64 * 1024 * 1024),
    ) as nodes:
        yield nodes


@pytest.fixture
def node(fleet: list[AbusedNode]) -> AbusedNode:
    return fleet[0]
