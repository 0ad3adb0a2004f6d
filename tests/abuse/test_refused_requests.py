"""What gets through: requests that have harmed inference servers, sent to a fleet of real agents, reach no engine."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.abuse.fleet import AbusedNode, abused_fleet
from tests.abuse.wire import get, post, send, status_of
from tests.refused_requests import CONTROL_TOKEN, REFUSED, RefusedRequest, chat, image

ENGINE_PORT = 8002


_ids = itertools.count(1)


def sent_and_received(fleet: list[AbusedNode], raw: bytes) -> tuple[bytes, int]:
    """Send a request to the first node.

    Returns the answer, and how many requests with its id the engines have received: a node's own, which check whether
    its engine works, have others.
    """
    given = f"refused-{next(_ids)}"
    answer = send(fleet[0].host, raw.replace(b"\r\n", f"\r\nx-request-id: {given}\r\n".encode(), 1))
    shown = [get(node.host, "/metrics", ENGINE_PORT).decode() for node in fleet]
    counted = rf'^fake_engine_received_total{{request_id="{given}"}} (\d+)$'
    return answer, sum(int(n) for text in shown for n in re.findall(counted, text, re.MULTILINE))


def assert_refused(fleet: list[AbusedNode], request: RefusedRequest) -> None:
    for streamed in (False, True):
        raw = request.to_bytes()
        if streamed and request.raw is None and request.method == "POST":
            raw = post(request.path, {**request.body, "stream": True})
        answer, received = sent_and_received(fleet, raw)
        assert status_of(answer) == [request.status], "a stream, too, is refused before it begins"
        assert received == 0
        error = json.loads(answer.rpartition(b"\r\n\r\n")[2])["error"]
        if request.path == "/v1/messages":
            assert error["message"]
        else:
            assert (error["code"], error["param"]) == (request.code, request.param)


@pytest.mark.parametrize("request_", REFUSED, ids=lambda request: request.name)
def test_a_request_of_the_list_reaches_no_engine(fleet: list[AbusedNode], request_: RefusedRequest) -> None:
    assert_refused(fleet, request_)


def test_a_usual_request_reaches_one(fleet: list[AbusedNode]) -> None:
    """Without this the others would prove nothing."""
    answer, received = sent_and_received(fleet, post("/v1/chat/completions", chat()))
    assert (status_of(answer), received) == ([200], 1)


DOMAIN = "images.example.com"


@pytest.fixture(scope="module")
def permissive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[AbusedNode]]:
    """Run one node of a multimodal model, whose operator has allowed a domain, data and some fields."""
    folder = tmp_path_factory.mktemp("permissive")
    model = folder / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"image_token_id": 151655}))
    (model / "added_tokens.json").write_text(json.dumps({"<|image_pad|>": 151655}))
    settings = {
        "SYNKTI_MODEL_DIR": str(model),
        "SYNKTI_ALLOWED_MEDIA_DOMAINS": DOMAIN,
        "SYNKTI_MAX_DATA_URL_BYTES": "1000",
        "SYNKTI_ALLOWED_FIELDS": "chat_template_kwargs.enable_thinking,priority",
        "SYNKTI_ALLOWED_ROUTES": "/tokenize",
        "SYNKTI_CACHE_SALT": "per-key",
    }
    with abused_fleet(folder, 1, **settings) as nodes:
        yield nodes


ALLOWED = {
    "a domain": image(f"https://{DOMAIN}/a.png"),
    "data": image("data:image/png;base64,AAAA"),
    "a member": chat(chat_template_kwargs={"enable_thinking": False}),
    "a field": chat(priority=1),
}


@pytest.mark.parametrize("body", ALLOWED.values(), ids=ALLOWED)
def test_what_the_operator_allows_gets_through(permissive: list[AbusedNode], body: dict[str, object]) -> None:
    answer, received = sent_and_received(permissive, post("/v1/chat/completions", body))
    assert (status_of(answer), received) == ([200], 1)


STILL_REFUSED = [each for each in REFUSED if each.source in ("CVE-2025-6242", "CVE-2026-34755", "CVE-2026-24779")]


@pytest.mark.parametrize("request_", STILL_REFUSED, ids=lambda request: request.name)
def test_no_other_address_does(permissive: list[AbusedNode], request_: RefusedRequest) -> None:
    if request_.name != "url: data":
        assert_refused(permissive, request_)


def test_a_control_token_of_the_model_reaches_no_engine(permissive: list[AbusedNode], fleet: list[AbusedNode]) -> None:
    assert_refused(permissive, CONTROL_TOKEN)
    escaped = post(CONTROL_TOKEN.path, json.dumps(CONTROL_TOKEN.body).replace("<", "\\u003c").encode())
    assert status_of(send(permissive[0].host, escaped)) == [400]
    ids = post("/v1/completions", {"model": "tiny", "prompt": [1, 151655], "max_tokens": 1})
    assert status_of(send(permissive[0].host, ids)) == [400]
    assert status_of(send(fleet[0].host, CONTROL_TOKEN.to_bytes())) == [200], "for a model of texts it is a text"


def test_an_allowed_route_is_reachable_and_its_neighbour_is_not(permissive: list[AbusedNode]) -> None:
    for path, status in (("/tokenize", 200), ("/detokenize", 404)):
        answer = send(permissive[0].host, post(path, {"model": "tiny", "prompt": "a", "tokens": [1]}))
        assert status_of(answer) == [status]


def test_an_unknown_name_in_the_settings_stops_a_node_at_its_start(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="not within"), abused_fleet(tmp_path, 1, SYNKTI_ALLOWED_FIELDS="model"):
        pass
    assert "SYNKTI_ALLOWED_FIELDS='model'" in (tmp_path / "i-00000000.log").read_text()
