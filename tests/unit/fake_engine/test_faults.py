"""Losses made to order: what is left of a stream, first as bytes, then on the wire."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from local.fake_engine.answers import BadRequest
from local.fake_engine.faults import (
    DONE,
    Chunk,
    ConnectionEnd,
    ErrorPayloads,
    Fault,
    FaultKind,
    FaultQueue,
    inject_fault,
    read_faults,
)
from tests.engines import MODEL, Engine, fake_engine

CHAT, PLAIN = "/v1/chat/completions", "/v1/completions"
ROLE = Chunk(b"data: role\n\n")
TOKENS = [Chunk(f"data: {text}\n\n".encode(), 1) for text in ("a", "b", "é", "d")]
WORDS = ErrorPayloads(b"data: error\n\n", b"data: abort\n\n")
ALL = b"".join(chunk.data for chunk in (ROLE, *TOKENS))


def played(fault: Fault) -> tuple[bytes, ConnectionEnd | None]:
    sent = list(inject_fault(fault, [ROLE, *TOKENS], lambda: WORDS))
    endings = [item for item in sent if isinstance(item, ConnectionEnd)]
    assert endings in ([], sent[-1:])
    return b"".join(item.data for item in sent if isinstance(item, Chunk)), endings[0] if endings else None


@pytest.mark.parametrize(
    ("kind", "last", "ending"),
    [
        (FaultKind.RESET, b"", ConnectionEnd.RESET),
        (FaultKind.ERROR_CHUNK, b"data: error\n\n" + DONE, ConnectionEnd.CLEAN),
        (FaultKind.DONE, DONE, ConnectionEnd.CLEAN),
        (FaultKind.ABORT, b"data: abort\n\n" + DONE, ConnectionEnd.CLEAN),
        (FaultKind.EOF, b"", ConnectionEnd.CLEAN),
        (FaultKind.SILENCE, b"", ConnectionEnd.HANG),
        (FaultKind.HALF_CHUNK, b"data", ConnectionEnd.CLEAN),
    ],
)
def test_a_fault_comes_after_its_tokens(kind: FaultKind, last: bytes, ending: ConnectionEnd) -> None:
    assert played(Fault(kind)) == (ROLE.data + last, ending)
    assert played(Fault(kind, 1)) == (ROLE.data + TOKENS[0].data + last, ending)
    assert played(Fault(kind, 4)) == (ALL, None), "the answer was over: nothing happened"


def test_half_a_character_waits_for_one_that_can_be_cut() -> None:
    before = b"".join(chunk.data for chunk in (ROLE, *TOKENS[:2]))
    for after in range(3):
        assert played(Fault(FaultKind.HALF_CHARACTER, after)) == (before + b"data: \xc3", ConnectionEnd.CLEAN)
    assert played(Fault(FaultKind.HALF_CHARACTER, 3)) == (ALL, None)


def test_faults_with_a_place_of_their_own() -> None:
    assert played(Fault(FaultKind.SILENCE_BEFORE_FIRST)) == (b"", ConnectionEnd.HANG)
    assert played(Fault(FaultKind.BEFORE_FINISH)) == (ALL, ConnectionEnd.RESET)


def test_each_fault_is_one_streams() -> None:
    faults = FaultQueue()
    first, second, third = Fault(FaultKind.EOF, path=PLAIN), Fault(FaultKind.RESET, 3), Fault(FaultKind.DONE)
    faults.replace([first, second, third])
    assert [faults.pop(path) for path in (CHAT, PLAIN, CHAT, CHAT)] == [second, first, third, None]
    faults.record(second, 12.5)
    assert faults.to_json() == {
        "waiting": [],
        "happened": [{"kind": "reset", "after_tokens": 3, "path": None, "at": 12.5}],
    }
    faults.replace([])
    assert faults.to_json() == {"waiting": [], "happened": []}


def test_faults_are_read() -> None:
    assert read_faults([]) == []
    assert read_faults([{"kind": "eof"}, {"kind": "silence", "after_tokens": 4, "path": CHAT}]) == [
        Fault(FaultKind.EOF),
        Fault(FaultKind.SILENCE, 4, CHAT),
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "eof"},
        ["eof"],
        [{"after_tokens": 3}],
        [{"kind": "fire"}],
        [{"kind": "eof", "after_tokens": -1}],
        [{"kind": "eof", "after_tokens": True}],
        [{"kind": "eof", "after_tokens": 1.5}],
        [{"kind": "eof", "after": 3}],
        [{"kind": "eof", "path": 3}],
        [{"kind": "before-finish", "after_tokens": 3}],
    ],
)
def test_an_invalid_list_of_faults_is_refused(wrong: object) -> None:
    with pytest.raises(BadRequest):
        read_faults(wrong)


# on the wire


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with fake_engine(tmp_path_factory.mktemp("fake_engine"), "--seconds-per-token", "0.001", "--faults") as made:
        yield made


def set_faults(engine: Engine, *faults: dict[str, Any]) -> None:
    httpx.post(f"{engine.url}/standin/faults", json=faults).raise_for_status()


def happened(engine: Engine) -> list[str]:
    faults = httpx.get(f"{engine.url}/standin/faults").json()
    assert faults["waiting"] == []
    return [fault["kind"] for fault in faults["happened"]]


def raw_stream(engine: Engine, path: str = CHAT) -> tuple[bytes, str]:
    """Everything that comes on a bare connection, and how it ends: closed, reset or silence."""
    body = {"model": MODEL, "max_tokens": 60, "ignore_eos": True, "stream": True, "return_token_ids": True}
    body |= {"messages": [{"role": "user", "content": "hi"}]} if path == CHAT else {"prompt": "hi"}
    content = json.dumps(body).encode()
    url = httpx.URL(engine.url)
    got = b""
    with socket.create_connection((url.host, url.port or 0), timeout=1.0) as connection:
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {len(content)}\r\n\r\n"
        connection.sendall(head.encode() + content)
        try:
            while data := connection.recv(65536):
                got += data
        except ConnectionResetError:
            return got, "reset"
        except TimeoutError:
            return got, "silence"
    return got, "closed"


END_OF_BODY = b"0\r\n\r\n"


@pytest.mark.parametrize("path", [CHAT, PLAIN])
@pytest.mark.parametrize(
    ("kind", "how", "says_done"),
    [
        ("reset", "reset", False),
        ("error-chunk", "closed", True),
        ("done", "closed", True),
        ("abort", "closed", True),
        ("eof", "closed", False),
        ("silence", "silence", False),
        ("half-chunk", "closed", False),
        ("half-character", "closed", False),
    ],
)
def test_a_broken_stream_has_the_form_of_its_fault(
    engine: Engine, path: str, kind: str, how: str, says_done: bool
) -> None:
    set_faults(engine, {"kind": kind, "after_tokens": 20})
    got, ended = raw_stream(engine, path)
    assert ended == how
    assert happened(engine) == [kind]
    assert got.endswith(END_OF_BODY) == (how == "closed")
    assert (DONE in got) == says_done
    assert b'"finish_reason":"length"' not in got
    assert (b'"finish_reason":"abort"' in got) == (kind == "abort")
    assert (b'"error"' in got) == (kind == "error-chunk")
    tokens = got.count(b'"token_ids":[') - (kind == "abort")
    if kind == "reset":
        assert 0 < tokens <= 20  # it takes along what the client has not read yet
    else:
        assert tokens == 20 or (kind == "half-character" and tokens >= 20)
    whole, _ = raw_stream(engine, path)
    assert DONE in whole, "a fault is used up"


def test_silence_before_the_first_and_a_loss_before_the_finish(engine: Engine) -> None:
    set_faults(engine, {"kind": "silence-before-first"}, {"kind": "before-finish"})
    got, ended = raw_stream(engine)
    assert (ended, got.count(b"data: ")) == ("silence", 0)
    assert got.startswith(b"HTTP/1.1 200 ")
    got, ended = raw_stream(engine)
    assert (ended, got.count(b'"token_ids":[')) == ("reset", 60)
    assert b'"finish_reason":"length"' not in got
    assert happened(engine) == ["silence-before-first", "before-finish"]


def test_refusals_replace_a_stream(engine: Engine) -> None:
    set_faults(engine, {"kind": "status-500"}, {"kind": "wrong-model"})
    assert raw_stream(engine)[0].startswith(b"HTTP/1.1 500 ")
    got, _ = raw_stream(engine)
    assert got.startswith(b"HTTP/1.1 404 ")
    assert f"The model `{MODEL}` does not exist.".encode() in got


def test_a_silence_ends_when_its_client_disconnects(engine: Engine) -> None:
    set_faults(engine, {"kind": "silence", "after_tokens": 2})
    listening = threading.Thread(target=lambda: raw_stream(engine))  # gives up after a second without a byte
    listening.start()
    seen_running = False
    give_up_at = time.monotonic() + 10
    while time.monotonic() < give_up_at:
        running = httpx.get(f"{engine.url}/load").json()["server_load"]
        seen_running = seen_running or running == 1
        if seen_running and running == 0:
            break
        time.sleep(0.02)
    listening.join()
    assert seen_running
    assert httpx.get(f"{engine.url}/load").json()["server_load"] == 0


def test_only_an_engine_started_for_faults_accepts_them(tmp_path: Path, engine: Engine) -> None:
    assert httpx.post(f"{engine.url}/standin/faults", content=b"{").status_code == 400
    assert httpx.post(f"{engine.url}/standin/faults", json=[{"kind": "fire"}]).status_code == 400
    with contextlib.ExitStack() as stack:
        stock = stack.enter_context(fake_engine(tmp_path))
        assert httpx.post(f"{stock.url}/standin/faults", json=[]).status_code == 404
