"""For all tests: what hypothesis may do on a busy machine, what is loaded once, and what runs in one process."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from botocore.client import ClientCreator
from botocore.loaders import create_loader
from hypothesis import settings

# No deadline for an example: a slow machine is no bug. In CI the same examples every time, elsewhere new ones.
settings.register_profile("synkti", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.register_profile("quick", settings.get_profile("synkti"), max_examples=20, stateful_step_count=15)
settings.load_profile(os.environ.get("SYNKTI_HYPOTHESIS", "synkti"))  # quick: in `make check` and `make test`

# Each of moto's EC2s would begin with some hundred images, for which it draws a million random digits.
os.environ["MOTO_EC2_LOAD_DEFAULT_AMIS"] = "false"

_TESTS = Path(__file__).parent
_CDK = ("aws_calls", "templates")
"""Folders of tests that synthesize, for which the CDK runs a Node process beside each Python process."""


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """With --dist=loadgroup: run a file in one process, and in one all files that share something dear to start."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))


def _group(item: pytest.Item) -> str:
    folder = item.path.relative_to(_TESTS).parts[0]
    if folder == "boot":
        return folder  # one fleet is booted for all of its parts, also for the one with a real engine
    if folder == "contract" or item.get_closest_marker("vllm"):
        return "engines"  # of the contract; and no two real engines run at once, which would starve each other
    if folder in _CDK:
        return "cdk"
    return "deployed" if "deployed_aws" in getattr(item, "fixturenames", ()) else str(item.path)


@pytest.fixture(scope="session", autouse=True)
def one_loader_of_service_descriptions() -> Iterator[None]:
    """Parse botocore's description of a service once for all sessions: EC2's has several megabytes."""
    loader = create_loader()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("botocore.session.create_loader", lambda *_: loader)
        yield


@pytest.fixture(scope="session", autouse=True)
def one_set_of_methods_for_each_service() -> Iterator[None]:
    """Make the methods of botocore's clients once for each service: EC2 has seven hundred, in every client."""
    creators: Any = ClientCreator  # its types do not have the method
    create, made = creators._create_methods, dict[str, dict[str, Any]]()

    def create_once(creator: Any, service_model: Any) -> dict[str, Any]:
        if service_model.service_name not in made:
            made[service_model.service_name] = create(creator, service_model)
        return dict(made[service_model.service_name])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(creators, "_create_methods", create_once)
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
