"""What engines receive of clients' requests, over both hops: agents with engines that say what they received."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvloop

from tests.scenarios.local_fleet import LocalFleet, eventually, unready_fleet

PAGE = "https://chat.example.com"
JSON = {"content-type": "application/json"}
Story = Callable[[LocalFleet], Coroutine[Any, Any, None]]


def tell(folder: Path, story: Story, models: tuple[str, ...] = ("m",), **extra: Any) -> None:
    """Two nodes; each knows the other and its own engine's names."""

    async def run() -> None:
        served = iter(models * 2)

        def command(host: str, port: int) -> list[str]:
            return [sys.executable, "-m", "tests.scenarios.echo_engine", host, str(port), next(served)]

        async with unready_fleet(folder, 2, models=models, engine=command, **extra) as fleet:
            for node in fleet.nodes:
                await eventually("it is ready", partial(fleet.ready, node))
                await eventually("it sees both", partial(fleet.sees, node, 2))
                await eventually("its engine's names are known", partial(_knows_names, fleet, node.url))
            await story(fleet)

    uvloop.run(run())


async def _knows_names(fleet: LocalFleet, url: str) -> bool:
    cards = (await fleet.http.get(f"{url}/v1/models")).json()["data"]
    return any(card["id"].endswith("-too") for card in cards)


async def at_each_engine(fleet: LocalFleet, method: str, path: str, **more: Any) -> list[httpx.Response]:
    """Answers of a node to the same request, from its own engine and the other node's: each session has its node."""
    answers: dict[str, httpx.Response] = {}
    given = more.pop("headers", {})
    for session in range(64):
        headers = {**given, "x-synkti-session": str(session)}
        answer = await fleet.http.request(method, fleet.nodes[0].url + path, headers=headers, **more)
        answers[answer.headers["x-synkti-node"]] = answer
        if len(answers) == 2:
            return list(answers.values())
    raise AssertionError("one engine got them all")


def test_content_types_and_named_headers_cross_both_hops_and_no_others(tmp_path: Path) -> None:
    form = b'--x\r\ncontent-disposition: form-data; name="file"; filename="a.wav"\r\n\r\nRIFF\xff\x00\r\n--x--\r\n'
    headers = {
        "content-type": "multipart/form-data; boundary=x",
        "x-request-id": "mine-1",
        "traceparent": "00-1-2-01",
        "tracestate": "a=b",
        "cookie": "secret",
        "authorization": "Bearer secret",
        "x-data-parallel-rank": "1",
    }

    async def story(fleet: LocalFleet) -> None:
        asked = await at_each_engine(fleet, "POST", "/v1/audio/transcriptions", content=form, headers=headers)
        for answer in asked:
            received = answer.json()
            assert base64.b64decode(received["body"]) == form
            there = received["headers"]
            assert {name: there[name] for name in headers if name in there} == {
                name: headers[name] for name in ("content-type", "x-request-id", "traceparent", "tracestate")
            }
            assert answer.headers["x-request-id"] == "mine-1"
            assert answer.headers["content-disposition"] == "attachment"
            assert "location" not in answer.headers

    tell(tmp_path, story)


def test_every_answer_has_a_request_id_and_an_engine_gets_the_same(tmp_path: Path) -> None:
    async def story(fleet: LocalFleet) -> None:
        url = fleet.nodes[0].url
        for path in ("/health", "/healthz", "/metrics", "/v1/models", "/nowhere", "/v1/streams/0", "/health/"):
            assert len((await fleet.http.get(url + path)).headers["x-request-id"]) == 32, path
        for answer in await at_each_engine(fleet, "GET", "/v1/responses/x"):
            assert answer.json()["headers"]["x-request-id"] == answer.headers["x-request-id"]
        long = await fleet.http.get(f"{url}/version", headers={"x-request-id": "x" * 600})
        assert (long.status_code, len(long.headers["x-request-id"])) == (400, 32)

    tell(tmp_path, story)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "utf-8"])
@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages", "/v1/chat/completions/batch", "/v1/embeddings"])
def test_no_argument_of_ours_reaches_an_engine_in_any_encoding(tmp_path: Path, encoding: str, path: str) -> None:
    body = {"model": "m", "input": "a", "messages": [], "vllm_xargs": {"synkti_resume_ids": [1], "mine": 1}}

    async def story(fleet: LocalFleet) -> None:
        for more in ("", ', "top_p": NaN', ', "user": "\\ud800"', ', "top_p": 1e999'):
            raw = (json.dumps(body)[:-1] + more + "}").encode(encoding)
            answer = await fleet.http.post(fleet.nodes[0].url + path, content=raw, headers=JSON)
            received = base64.b64decode(answer.json()["body"])
            assert b"synkti" not in received
            assert json.loads(received)["vllm_xargs"] == {"mine": 1}
        refused = await fleet.http.post(fleet.nodes[0].url + path, content=b'{"a":' * 3, headers=JSON)
        assert refused.status_code == 400
        assert ("type" in refused.json()) is (path == "/v1/messages"), "Anthropic's clients get its form"

    tell(tmp_path, story)


def test_other_names_of_an_engine_are_served_and_its_own_cards_listed(tmp_path: Path) -> None:
    async def story(fleet: LocalFleet) -> None:
        url = fleet.nodes[0].url  # whose engine serves m; the other node's serves n
        cards = {card["id"]: card for card in (await fleet.http.get(f"{url}/v1/models")).json()["data"]}
        assert set(cards) == {"m", "m-too", "m-sql", "n", "n-too", "n-sql"}
        assert (cards["m"]["max_model_len"], cards["m"]["created"], cards["m-sql"]["parent"]) == (4096, 1, "m")
        for name in cards:
            answer = await fleet.http.post(f"{url}/v1/embeddings", json={"model": name, "input": "a"})
            assert answer.status_code == 200, name
            there = fleet.nodes[0 if name.startswith("m") else 1]
            assert answer.headers["x-synkti-node"] == there.instance_id
        unknown = await fleet.http.post(f"{url}/v1/embeddings", json={"model": "x" * 1_000_000, "input": "a"})
        assert (unknown.status_code, len(unknown.content) < 1_000) == (404, True)

    tell(tmp_path, story, models=("m", "n"))


def test_pages_of_allowed_origins_may_call_from_a_browser(tmp_path: Path) -> None:
    async def story(fleet: LocalFleet) -> None:
        url = fleet.nodes[0].url + "/v1/chat/completions"
        asks = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}
        allowed = await fleet.http.options(url, headers={"origin": PAGE, **asks})
        assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, PAGE)
        assert allowed.headers["access-control-allow-headers"] == asks["access-control-request-headers"]
        for error in (await fleet.http.post(url, content=b"{", headers={**JSON, "origin": PAGE}),):
            assert (error.status_code, error.headers["access-control-allow-origin"]) == (400, PAGE)
        other = await fleet.http.options(url, headers={"origin": "https://evil.example", **asks})
        assert other.status_code == 405
        assert "access-control-allow-origin" not in other.headers

    tell(tmp_path, story, SYNKTI_ALLOWED_ORIGINS=PAGE)


def test_what_is_tokenized_is_bounded_by_the_context(tmp_path: Path) -> None:
    async def story(fleet: LocalFleet) -> None:
        url = fleet.nodes[0].url

        async def length_is_known() -> bool:
            """Until then the bound is another one; names alone may be another node's."""
            answer = await fleet.http.post(url + "/tokenize", json={"prompt": "x" * 70_000})
            return answer.status_code == 413

        await eventually("the context length is known", length_is_known)
        for path in ("/tokenize", "/detokenize", "/v1/messages/count_tokens"):
            fits = await fleet.http.post(url + path, json={"prompt": "x" * 60_000})
            refused = await fleet.http.post(url + path, json={"prompt": "x" * 70_000})
            assert (fits.status_code, refused.status_code) == (200, 413), path
            assert "4096 tokens" in refused.json()["error"]["message"]

    tell(tmp_path, story)
