"""One request as both transports make it: all that they decide, without the I/O in which they differ."""

from __future__ import annotations

import socket
import time
from typing import Any

from synkti_client import _asked
from synkti_client._answers import ENGINE_LOST, STREAM_HEADER, Verdict, error_code, is_final, judge, retry_after_s
from synkti_client._asked import EVENT_IDS_HEADER, STREAMS_PATH
from synkti_client._attempts import Attempts, Bounds, StreamLost
from synkti_client._continuity import ResumableSse
from synkti_client._httpx import httpx
from synkti_client._nodes import Nodes
from synkti_client._patience import RetryPolicy

_OURS = frozenset({b"host", b"transfer-encoding", EVENT_IDS_HEADER.encode()})
_MAY_COME_BACK = frozenset({409, 429, 500, 502, 503, 504})
_NOT_A_NODES_FAULT = (httpx.LocalProtocolError, httpx.UnsupportedProtocol, httpx.PoolTimeout)
_NOTHING_SENT = (httpx.ConnectError, httpx.ConnectTimeout)
_MOST_LOST = 2
_SHOWN = 300

SOCKET_OPTIONS = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))
        if hasattr(socket, name)
    ),
]
"""A node whose machine is gone ends a connection within half a minute, also where no answer has a time limit."""


class Refused(httpx.ReadError):
    """A node answered that it cannot do it."""


class Call:
    """A new request. body: all of it, since it may be sent again."""

    def __init__(self, request: httpx.Request, body: bytes, nodes: Nodes, patience: RetryPolicy) -> None:
        self.asked = _asked.read(request, body)
        read_s = self.asked.read_s
        deadline = None if read_s is None else time.monotonic() + read_s
        self._attempts = Attempts(nodes, patience, Bounds(deadline, once=self.asked.is_repeated))
        self._nodes = nodes
        self._patience = patience
        self._request = request
        self._body = body
        self._faults = 0
        self._refusal: httpx.Response | None = None

    def next(self) -> tuple[str, float] | httpx.Response:
        """The node to ask and how long to wait before; or, at the end of patience, what the last node answered.

        Raises where no node answered.
        """
        try:
            return self._attempts.next()
        except httpx.TransportError:
            if self._refusal is None:
                raise
            return self._refusal

    def remaining_s(self) -> float | None:
        """Until the application waits no longer; None where it has no such time."""
        return self._attempts.remaining_s()

    def at(self, node: str) -> httpx.Request:
        """The same request at a node."""
        headers = [(name, value) for name, value in self._request.headers.raw if name.lower() not in _OURS]
        headers.append((EVENT_IDS_HEADER.encode(), b"true"))
        timeout: dict[str, Any] = dict(self._request.extensions.get("timeout") or {})
        timeout["connect"] = _least(timeout.get("connect"), self._patience.connect_s, self._attempts.remaining_s())
        if self.asked.streams:
            timeout["read"] = self._patience.head_s
            timeout["write"] = _least(timeout.get("write"), self._patience.head_s)
        else:
            timeout["read"] = self._attempts.remaining_s()
        url = _url_at(node, self._request.url.raw_path)
        return httpx.Request(
            self._request.method, url, headers=headers, content=self._body, extensions={"timeout": timeout}
        )

    def failed(self, node: str, error: httpx.TransportError) -> None:
        """Raises the error where it is the application's to see."""
        if isinstance(error, _NOT_A_NODES_FAULT):
            raise error
        self._refusal = None
        if isinstance(error, _NOTHING_SENT):
            self._attempts.failed(node, error)
        elif isinstance(error, httpx.TimeoutException) and self.asked.read_s is not None:
            raise error  # the application waits no longer; another node would begin anew for nobody
        else:
            self._attempts.lost(node, error)

    def is_answered(self, node: str, answer: httpx.Response) -> bool:
        """Whether this, read to its end, is what the application gets."""
        verdict = judge(answer.status_code, answer.content, is_final=is_final(answer.headers))
        self._faults += verdict is Verdict.ONCE_MORE
        if verdict is Verdict.ANSWER or self._faults > 1 or (verdict is Verdict.ONCE_MORE and len(self._nodes) == 1):
            return True
        self._refusal = answer
        self._attempts.refused(node, _refused(answer), retry_after_s(answer.headers))
        return False

    def answer(self, response: httpx.Response, content: bytes) -> httpx.Response:
        """A node's answer in one piece."""
        coded = ("content-encoding", "transfer-encoding")
        headers = [(key, value) for key, value in response.headers.multi_items() if key.lower() not in coded]
        return httpx.Response(response.status_code, headers=headers, content=content, request=self._request)

    def passed_on(self, response: httpx.Response, asked: httpx.Request) -> httpx.Response:
        """An answer that comes in pieces, which the application waits for as long as it likes."""
        asked.extensions["timeout"]["read"] = (self._request.extensions.get("timeout") or {}).get("read")
        return httpx.Response(
            response.status_code, headers=response.headers, stream=response.stream, request=self._request
        )

    def resumption(self, node: str, response: httpx.Response, asked: httpx.Request) -> Resumption:
        """For a stream that any node can continue."""
        self._nodes.answered(node)
        silence(asked, self._patience)
        continuity = ResumableSse(
            response.headers[STREAM_HEADER], uses_ids=self.asked.uses_ids, last_id=self.asked.last_id
        )
        return Resumption(continuity, self._request, self._nodes, self._patience)


class Resumption:
    """How one stream goes from node to node."""

    def __init__(self, continuity: ResumableSse, first: httpx.Request, nodes: Nodes, patience: RetryPolicy) -> None:
        self.continuity = continuity
        self.attempts = Attempts(nodes, patience, Bounds(is_resuming=True))
        self._first = first
        self._patience = patience
        self._engines_lost = 0

    def feed(self, data: bytes) -> bytes:
        """What of it the application gets. Raises StreamLost."""
        try:
            out = self.continuity.feed(data)
        except ValueError as error:
            raise StreamLost(f"A node sent {error}.") from error
        if out:
            self.attempts.progress()
            self._engines_lost = 0
        return out

    def broke(self, node: str, error: httpx.TransportError) -> None:
        """The connection to the node broke, or could not be made. Raises StreamLost where it was given up before."""
        if isinstance(error, StreamLost):
            raise error
        self.attempts.failed(node, error)

    def moved_from(self, node: str) -> None:
        """The connection ended. Raises StreamLost where engines were lost again and again: one more would be, too."""
        code = self.continuity.moved
        if code == ENGINE_LOST:
            self._engines_lost += 1
            if self._engines_lost > _MOST_LOST:
                raise StreamLost(f"Engines were lost under this stream at {_MOST_LOST + 1} nodes; it is given up.")
        if code is not None:
            self.attempts.refused(node, Refused(code))

    def at(self, node: str) -> httpx.Request:
        """What asks a node for the rest."""
        headers = {"accept": "text/event-stream", EVENT_IDS_HEADER: "true"}
        if self.continuity.last_id:
            headers["last-event-id"] = self.continuity.last_id
        for name in ("authorization", "x-api-key"):
            if (key := self._first.headers.get(name)) is not None:
                headers[name] = key
        timeout = dict.fromkeys(("read", "write", "pool"), self._patience.resume_s)
        timeout["connect"] = self._patience.connect_s
        url = _url_at(node, f"{STREAMS_PATH}{self.continuity.stream}".encode())
        return httpx.Request("GET", url, headers=headers, extensions={"timeout": timeout})

    def takes(self, answer: httpx.Response, asked: httpx.Request) -> bool:
        """Whether the rest comes with this answer."""
        if answer.status_code != 200:
            return False
        silence(asked, self._patience)
        self.continuity.begin_connection()
        return True

    def refused(self, node: str, answer: httpx.Response) -> None:
        """Raises StreamLost where no other node would answer otherwise."""
        error = _refused(answer)
        may_come_back = answer.status_code in _MAY_COME_BACK
        if not may_come_back and (answer.status_code != 404 or self.attempts.not_found(node)):
            raise StreamLost(f"The stream cannot be resumed: {node} answers {error}")
        self.attempts.refused(node, error, retry_after_s(answer.headers))


def silence(asked: httpx.Request, patience: RetryPolicy) -> None:
    """From the head on a node is never silent: it sends comments."""
    asked.extensions["timeout"]["read"] = patience.silence_s


def asking_for_list(url: str, timeout_s: float) -> httpx.Request:
    timeout = dict.fromkeys(("connect", "read", "write", "pool"), timeout_s)
    return httpx.Request("GET", url, extensions={"timeout": timeout})


def _refused(answer: httpx.Response) -> Refused:
    code = error_code(answer.content) or answer.text[:_SHOWN]
    return Refused(f"{answer.status_code} {code}".strip())


def _url_at(node: str, raw_path: bytes) -> httpx.URL:
    return httpx.URL(node).copy_with(raw_path=raw_path)


def _least(*seconds: float | None) -> float | None:
    return min((each for each in seconds if each is not None), default=None)
