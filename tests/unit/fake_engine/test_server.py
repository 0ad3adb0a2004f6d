"""The fake engine's ways to end, which are vLLM's (the measurements are in docs/continuation.md)."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.engines import MODEL, Engine, fake_engine

CHAT, PLAIN = "/v1/chat/completions", "/v1/completions"
BODIES: dict[str, dict[str, Any]] = {
    CHAT: {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]},
    PLAIN: {"model": MODEL, "prompt": "hi"},
}


def cut(engine: Engine, path: str, max_tokens: int, read_s: float = 20.0) -> list[bytes]:
    """The lines of a stream whose engine gets SIGTERM after its tenth; up to where it broke, if it broke."""
    body = {**BODIES[path], "max_tokens": max_tokens, "ignore_eos": True, "stream": True}
    lines = []
    with (
        contextlib.suppress(httpx.ReadTimeout),
        httpx.stream("POST", engine.url + path, json=body, timeout=httpx.Timeout(20, read=read_s)) as response,
    ):
        for line in response.iter_lines():
            lines.append(line.encode())
            if len(lines) == 20:
                engine.terminate()
    return [line.removeprefix(b"data: ") for line in lines if line]


def finish_reasons(lines: list[bytes]) -> list[str]:
    chunks = [json.loads(line) for line in lines if line != b"[DONE]"]
    choices = [choice for chunk in chunks for choice in chunk.get("choices", ())]
    return [choice["finish_reason"] for choice in choices if choice["finish_reason"]]


def test_sigterm_ends_a_chat_stream_with_an_error_chunk_and_done(tmp_path: Path) -> None:
    with fake_engine(tmp_path) as engine:
        lines = cut(engine, CHAT, 2000)
        assert engine.process.wait(10) == 0
    assert lines[-1] == b"[DONE]"
    assert json.loads(lines[-2])["error"]["code"] == 500
    assert finish_reasons(lines) == []


def test_sigterm_ends_a_plain_stream_with_done_as_if_complete(tmp_path: Path) -> None:
    with fake_engine(tmp_path) as engine:
        lines = cut(engine, PLAIN, 2000)
        assert engine.process.wait(10) == 0
    assert lines[-1] == b"[DONE]"
    assert finish_reasons(lines) == []


def test_with_a_shutdown_timeout_streams_finish_and_new_requests_get_500(tmp_path: Path) -> None:
    with fake_engine(tmp_path, "--shutdown-timeout", "120") as engine:
        body = {**BODIES[CHAT], "max_tokens": 250, "ignore_eos": True, "stream": True}
        lines, refused, health = [], 0, 0
        with httpx.stream("POST", engine.url + CHAT, json=body, timeout=20) as response:
            for line in response.iter_lines():
                lines.append(line)
                if len(lines) == 20:
                    engine.terminate()
                    while refused != 500:  # it takes a moment to see the signal
                        refused = httpx.post(engine.url + CHAT, json=BODIES[CHAT]).status_code
                    health = httpx.get(f"{engine.url}/health").status_code
        assert engine.process.wait(10) == 0
    assert (refused, health) == (500, 200)
    assert finish_reasons([line.removeprefix("data: ").encode() for line in lines if line]) == ["length"]


def test_after_the_shutdown_timeout_a_stream_hangs_with_its_socket_open(tmp_path: Path) -> None:
    with fake_engine(tmp_path, "--shutdown-timeout", "0.2") as engine:
        lines = cut(engine, CHAT, 2000, read_s=1.0)
    assert lines[-1] != b"[DONE]"
    assert finish_reasons(lines) == []


@pytest.mark.parametrize("path", [CHAT, PLAIN])
def test_n_choices_take_turns_and_all_end(tmp_path: Path, path: str) -> None:
    with fake_engine(tmp_path, "--seconds-per-token", "0.001") as engine:
        body = {**BODIES[path], "max_tokens": 5, "n": 2, "stream": True}
        with httpx.stream("POST", engine.url + path, json=body, timeout=20) as response:
            lines = [line.removeprefix("data: ").encode() for line in response.iter_lines() if line]
    assert finish_reasons(lines) == ["length", "length"]
    indices = [c["index"] for line in lines[:-1] for c in json.loads(line)["choices"]]
    assert indices == sorted(indices[:2]) * (len(indices) // 2)
