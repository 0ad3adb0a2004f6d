"""One embedded AWS with the stacks deployed, for all tests that only use what is deployed."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from local.aws import EmbeddedAws
from local.deploy import deploy


@pytest.fixture(scope="session")
def deployed_aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedAws]:
    """Run it until the session ends. Each test uses a node, a stream or a bucket of its own."""
    folder = tmp_path_factory.mktemp("aws")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        embedded = EmbeddedAws(folder, folder)
        try:
            embedded.wait()
            deploy(embedded, folder)
            yield embedded
        finally:
            embedded.stop()
