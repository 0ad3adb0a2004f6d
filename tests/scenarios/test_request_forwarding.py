"""What engines receive of clients' requests, over both hops: the engines answer with the request that they received."""

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

from node_agent.contract.client_requests import OPTIONAL_ROUTES
from tests.scenarios.local_fleet import LocalFleet, eventually, unready_fleet

PAGE = "https://chat.example.com"
JSON = {"content-type": "application/json"}
Scenario = Callable[[LocalFleet], Coroutine[Any, Any, None]]


ALLOWED = {"SYNKTI_ALLOWED_ROUTES": ",".join(sorted(OPTIONAL_ROUTES)), "SYNKTI_ALLOWED_FIELDS": "vllm_xargs"}


def run_on_echo_engines(folder: Path, scenario: Scenario, models: tuple[str, ...] = ("m",), **extra: Any) -> None:
    """Run a scenario on two nodes that list each other and the model names of their own engines."""

    async def run() -> None:
        served = iter(models * 2)

        def command(host: str, port: int) -> list[str]:
            return [sys.executable, "-m", "tests.scenarios.echo_engine", host, str(port), next(served)]

        async with unready_fleet(folder, 2, models=models, engine=command, **{**ALLOWED, **extra}) as fleet:
            for node in fleet.nodes:
                await eventually("the node is ready", partial(fleet.ready, node))
                await eventually("the node lists both", partial(fleet.sees, node, 2))
                await eventually("the node lists its engine's names", partial(_lists_names, fleet, node.url))
            await scenario(fleet)

    uvloop.run(run())


async def _lists_names(fleet: LocalFleet, url: str) -> bool:
    cards = (await fleet.http.get(f"{url}/v1/models")).json()["data"]
    return any(card["id"].endswith("-too") for card in cards)


async def at_each_engine(fleet: LocalFleet, method: str, path: str, **more: Any) -> list[httpx.Response]:
    """Send a request under new session ids until each of the two engines has answered it, and return both answers."""
    answers: dict[str, httpx.Response] = {}
    given = more.pop("headers", {})
    for session in range(64):
        headers = {**given, "x-synkti-session": str(session)}
        answer = await fleet.http.request(method, fleet.nodes[0].url + path, headers=headers, **more)
        answers[answer.headers["x-synkti-node"]] = answer
        if len(answers) == 2:
            return list(answers.values())
    raise AssertionError("one engine received all requests")


def test_content_types_and_named_headers_cross_both_hops_and_no_others(tmp_path: Path) -> None:
    form = b'--x\r\ncontent-disposition: form-data; name="file"; filename="a.wav"\r\n\r\nRIFF\xff\x00\r\n--x--\r\n'
    headers = {
        "content-type": "multipart/form-data; boundary=x",
        "x-request-id": "mine-1",
        "traceparent": "00-1-2-01",
        "tracestate": "a=b",
        "cookie": "secret",
        "authorization": "Bearer secret",
        "proxy-authorization": "Bearer secret",
        "x-api-key": "secret",
        "x-forwarded-for": "10.0.0.1",
        "x-forwarded-host": "evil.example",
        "forwarded": "for=10.0.0.1",
        "x-original-url": "/sleep",
        "x-http-method-override": "DELETE",
        "x-synkti-deadly": "1",
        "x-synkti-kv-from": "i-0",
        "x-data-parallel-rank": "1",
        "x-kv-transfer-params": "{}",
    }

    async def scenario(fleet: LocalFleet) -> None:
        answers = await at_each_engine(fleet, "POST", "/v1/audio/transcriptions", content=form, headers=headers)
        for answer in answers:
            received = answer.json()
            assert base64.b64decode(received["body"]) == form
            there = received["headers"]
            assert there["host"].startswith("127."), "the node's own, never the client's"
            assert {name: there[name] for name in headers if name in there} == {
                name: headers[name] for name in ("content-type", "x-request-id", "traceparent", "tracestate")
            }
            assert answer.headers["x-request-id"] == "mine-1"
            assert answer.headers["content-disposition"] == "attachment"
            assert "location" not in answer.headers

    run_on_echo_engines(tmp_path, scenario)


def test_an_engine_receives_the_path_of_the_route_and_only_known_fields(tmp_path: Path) -> None:
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": "a"}],
        "max_tokens": 1,
        "store": True,
        "new": {"a": 1},
    }

    async def scenario(fleet: LocalFleet) -> None:
        url = fleet.nodes[0].url
        answer = (await fleet.http.post(f"{url}/v1/messages?beta=true", json=body)).json()
        assert answer["target"] == "/v1/messages"
        known = {key: value for key, value in body.items() if key not in ("store", "new")}
        assert json.loads(base64.b64decode(answer["body"])) == known
        plain = await fleet.http.post(f"{url}/v1/messages", content=b"anything", headers={"content-type": "text/plain"})
        assert plain.json()["body"] == "", "what an engine does not read it does not receive"
        stored = (
            await fleet.http.request("GET", f"{url}/v1/responses/resp_1?starting_after=5&x=1", content=b"x")
        ).json()
        assert (stored["target"], stored["body"]) == ("/v1/responses/resp_1?starting_after=5", "")
        for path in (
            "/v1/responses/resp_1/x",
            "/v1/anything",
            "/v1%2Fmessages",
            "//v1/messages",
            "/v1/load_lora_adapter",
        ):
            refused = await fleet.http.post(url + path, json=body)
            assert (refused.status_code, refused.json()["error"]["code"]) == (404, "unknown_route"), path

    run_on_echo_engines(tmp_path, scenario)


def test_the_salt_of_a_caller_is_the_same_at_every_node(tmp_path: Path) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "a"}], "max_tokens": 1}

    async def scenario(fleet: LocalFleet) -> None:
        salts = set()
        for node in fleet.nodes:
            received = (await fleet.http.post(f"{node.url}/v1/messages", json=body)).json()["body"]
            salts.add(json.loads(base64.b64decode(received))["cache_salt"])
        assert [len(salt) for salt in salts] == [43]
        refused = await fleet.http.post(f"{fleet.nodes[0].url}/v1/messages", json={**body, "cache_salt": salts.pop()})
        assert refused.status_code == 400

    run_on_echo_engines(tmp_path, scenario, SYNKTI_CACHE_SALT="per-key")


def test_every_response_has_a_request_id_and_the_engine_receives_the_same(tmp_path: Path) -> None:
    async def scenario(fleet: LocalFleet) -> None:
        url = fleet.nodes[0].url
        for path in ("/health", "/healthz", "/metrics", "/v1/models", "/nowhere", "/v1/streams/0", "/health/"):
            assert len((await fleet.http.get(url + path)).headers["x-request-id"]) == 32, path
        for answer in await at_each_engine(fleet, "GET", "/v1/responses/x"):
            assert answer.json()["headers"]["x-request-id"] == answer.headers["x-request-id"]
        long = await fleet.http.get(f"{url}/version", headers={"x-request-id": "x" * 600})
        assert (long.status_code, len(long.headers["x-request-id"])) == (400, 32)

    run_on_echo_engines(tmp_path, scenario)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "utf-8"])
@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages", "/v1/chat/completions/batch", "/v1/embeddings"])
def test_internal_arguments_from_clients_are_stripped_in_every_encoding(
    tmp_path: Path, encoding: str, path: str
) -> None:
    body = {"model": "m", "input": "a", "messages": [], "vllm_xargs": {"synkti_resume_ids": [1], "mine": 1}}

    async def scenario(fleet: LocalFleet) -> None:
        for more in ("", ', "top_p": NaN', ', "user": "\\ud800"', ', "top_p": 1e999'):
            raw = (json.dumps(body)[:-1] + more + "}").encode(encoding)
            answer = await fleet.http.post(fleet.nodes[0].url + path, content=raw, headers=JSON)
            received = base64.b64decode(answer.json()["body"])
            assert b"synkti" not in received
            assert json.loads(received)["vllm_xargs"] == {"mine": 1}
        refused = await fleet.http.post(fleet.nodes[0].url + path, content=b'{"a":' * 3, headers=JSON)
        assert refused.status_code == 400
        assert ("type" in refused.json()) is (path == "/v1/messages"), "the error has Anthropic's format on its route"

    run_on_echo_engines(tmp_path, scenario)


def test_all_model_names_of_an_engine_are_served_and_its_model_cards_listed(tmp_path: Path) -> None:
    async def scenario(fleet: LocalFleet) -> None:
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

    run_on_echo_engines(tmp_path, scenario, models=("m", "n"))


def test_pages_of_allowed_origins_may_call_from_a_browser(tmp_path: Path) -> None:
    async def scenario(fleet: LocalFleet) -> None:
        url = fleet.nodes[0].url + "/v1/chat/completions"
        preflight = {
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization,content-type",
        }
        allowed = await fleet.http.options(url, headers={"origin": PAGE, **preflight})
        assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, PAGE)
        assert allowed.headers["access-control-allow-headers"] == preflight["access-control-request-headers"]
        for error in (await fleet.http.post(url, content=b"{", headers={**JSON, "origin": PAGE}),):
            assert (error.status_code, error.headers["access-control-allow-origin"]) == (400, PAGE)
        other = await fleet.http.options(url, headers={"origin": "https://evil.example", **preflight})
        assert other.status_code == 405
        assert "access-control-allow-origin" not in other.headers

    run_on_echo_engines(tmp_path, scenario, SYNKTI_ALLOWED_ORIGINS=PAGE)


def test_tokenize_requests_are_bounded_by_the_context_length(tmp_path: Path) -> None:
    async def scenario(fleet: LocalFleet) -> None:
        url = fleet.nodes[0].url

        async def length_is_known() -> bool:
            """Return True once the bound is that of the context; listed names are no proof, they may be the peer's."""
            answer = await fleet.http.post(url + "/tokenize", json={"prompt": "x" * 70_000})
            return answer.status_code == 413

        await eventually("the context length is known", length_is_known)
        for path in ("/tokenize", "/detokenize", "/v1/messages/count_tokens"):
            fits = await fleet.http.post(url + path, json={"prompt": "x" * 60_000})
            refused = await fleet.http.post(url + path, json={"prompt": "x" * 70_000})
            assert (fits.status_code, refused.status_code) == (200, 413), path
            assert "4096 tokens" in refused.json()["error"]["message"]

    run_on_echo_engines(tmp_path, scenario)
