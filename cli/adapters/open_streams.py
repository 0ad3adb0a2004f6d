"""Streams of a client that stay open while a node is lost, through `synkti_client`."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import synkti_client
from cli.core.first_day.answers import PROMPT, Answer, AnswerReader
from node_agent.contract.names import EVENT_IDS_HEADER, NODE_HEADER
from synkti_client import httpx

_BASE = "http://synkti"
_TIMEOUT_S = 60.0
_MAX_ANSWERS = 10_000
_PAUSE_AFTER_ERROR_S = 1.0


class Completions:
    """Requests completions of the fleet.

    urls: base URLs of nodes or of a load balancer, without /v1; model: the name of the model in requests; headers: of
    all requests, with an API key where nodes require one.
    """

    def __init__(self, urls: Sequence[str], model: str, headers: Mapping[str, str] | None = None) -> None:
        self._model = model
        self._client = httpx.Client(transport=synkti_client.transport(urls), timeout=_TIMEOUT_S, headers=headers)

    def context(self) -> int | None:
        """Return the model's context length in tokens; None where no node reports it."""
        try:
            models = self._client.get(f"{_BASE}/v1/models").json()["data"]
            return next((int(each["max_model_len"]) for each in models if each.get("max_model_len")), None)
        except (httpx.HTTPError, ValueError, KeyError, TypeError):
            return None

    def answer(self, tokens: int) -> Answer:
        """Stream one greedy answer of exactly so many tokens to its end. Errors are in the result, never raised."""
        reader, began, node = AnswerReader(), time.monotonic(), ""
        # ignore_eos: the length does not depend on the model.
        body = {"model": self._model, "prompt": PROMPT, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
        try:
            # Only with event ids does a node mark the places where a stream continues.
            headers = {EVENT_IDS_HEADER: "true"}
            request: Any = {"json": {**body, "stream": True}, "headers": headers}
            with self._client.stream("POST", f"{_BASE}/v1/completions", **request) as response:
                node = response.headers.get(NODE_HEADER, "")
                if response.status_code != 200:
                    return reader.answer(
                        node, time.monotonic() - began, tokens, f"{response.status_code}: {_text(response)}"
                    )
                for data in response.iter_raw():
                    reader.feed(data)
        except (httpx.HTTPError, RuntimeError) as error:  # RuntimeError: the client was closed meanwhile
            return reader.answer(node, time.monotonic() - began, tokens, f"{type(error).__name__}: {error}")
        return reader.answer(node, time.monotonic() - began, tokens)

    def close(self) -> None:
        """Close all connections."""
        self._client.close()


class OpenStreams:
    """Keeps one stream open: each time one has ended, the next begins. `answers`: those that have ended."""

    def __init__(self, completions: Completions, tokens: int) -> None:
        self._completions = completions
        self._tokens = tokens
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="open-streams", daemon=True)
        self.answers: list[Answer] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stopped.set()

    def finish(self, within_s: float) -> list[Answer]:
        """Begin no more streams, wait for the last one, and return all."""
        self._stopped.set()
        self._thread.join(within_s)
        open_at_the_end = (
            [Answer("", error=f"it did not end within {within_s:.0f} s")] if self._thread.is_alive() else []
        )
        return [*self.answers, *open_at_the_end]

    def _run(self) -> None:
        while not self._stopped.is_set() and len(self.answers) < _MAX_ANSWERS:
            answer = self._completions.answer(self._tokens)
            self.answers.append(answer)
            if answer.error is not None:
                self._stopped.wait(_PAUSE_AFTER_ERROR_S)


def _text(response: httpx.Response) -> str:
    return response.read()[:500].decode("utf-8", "replace")
