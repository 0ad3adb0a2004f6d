"""The package is built on the library of the SDK that is installed, since an SDK takes only clients of its own kind."""

from __future__ import annotations

import openai
import pytest

import synkti_client
from synkti_client._httpx import httpx, library_of


@pytest.mark.parametrize(
    ("requirements", "library"),
    [
        (["anyio<5,>=3.5.0", "httpx<1,>=0.23.0", "httpx-aiohttp>=0.1.8; extra == 'aiohttp'"], "httpx"),
        (["httpx2<3,>=2.12.0", "httpx>=0.23; extra == 'old'"], "httpx2"),
        (["httpx[http2]>=0.28.0,<1.0", "httpx2>=2.10.0,<3 ; extra == 'proxy'"], "httpx"),
        (["HTTPX2 (>=2)"], "httpx2"),
        (["httpx-aiohttp>=0.1.8", "httpxtra", ">=1"], None),
        ([], None),
    ],
)
def test_the_library_is_the_one_that_the_sdk_requires(requirements: list[str], library: str | None) -> None:
    assert library_of(requirements) == library


def test_the_installed_sdk_takes_the_clients() -> None:
    assert issubclass(openai.DefaultHttpxClient, httpx.Client)
    assert issubclass(openai.DefaultAsyncHttpxClient, httpx.AsyncClient)
    with openai.OpenAI(api_key="none", http_client=synkti_client.http_client(["http://a:1"])):
        pass
