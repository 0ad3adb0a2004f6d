"""For all tests: what hypothesis may do on a busy machine, what is loaded once, and what runs in one process."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import pytest
from botocore.loaders import create_loader
from hypothesis import settings

# No deadline for an example: a slow machine is no bug. In CI the same examples every time, elsewhere new ones.
settings.register_profile("synkti", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.register_profile("quick", settings.get_profile("synkti"), max_examples=20, stateful_step_count=15)
settings.load_profile(os.environ.get("SYNKTI_HYPOTHESIS", "synkti"))  # quick: in `make check`

# Each of moto's EC2s would begin with some hundred images, for which it draws a million random digits.
os.environ["MOTO_EC2_LOAD_DEFAULT_AMIS"] = "false"

_TESTS = Path(__file__).parent


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """With --dist=loadgroup: run a file in one process, and in one all files that share the engines of the contract."""
    for item in items:
        folder = item.path.relative_to(_TESTS).parts[0]
        item.add_marker(pytest.mark.xdist_group(folder if folder == "contract" else str(item.path)))


@pytest.fixture(scope="session", autouse=True)
def one_loader_of_service_descriptions() -> Iterator[None]:
    """Parse botocore's description of a service once for all sessions: EC2's has several megabytes."""
    loader = create_loader()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("botocore.session.create_loader", lambda *_: loader)
        yield


@pytest.fixture(scope="session", autouse=True)
def one_tls_context() -> Iterator[None]:
    """Load the certificates that httpx trusts once: else each client does, and takes 30 ms of CPU time for it."""
    context = httpx.create_ssl_context()

    def create(verify: ssl.SSLContext | bool = True, **_: object) -> ssl.SSLContext:
        return verify if isinstance(verify, ssl.SSLContext) else context

    with pytest.MonkeyPatch.context() as patch:
        for library in ("httpx", "httpx2"):
            patch.setattr(f"{library}._transports.default.create_ssl_context", create)
        yield
