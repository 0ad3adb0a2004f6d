"""The decisions of both transports about one request, without I/O."""

from __future__ import annotations

import logging
import socket
import time
from typing import Any

from synkti_client._attempts import Attempts, Bounds, StreamLost, reason_of
from synkti_client._httpx import httpx
from synkti_client._nodes import Nodes
from synkti_client._request import CREDENTIAL_HEADERS, EVENT_IDS_HEADER, STREAMS_PATH, parse_request
from synkti_client._responses import ENGINE_LOST, STREAM_HEADER, Verdict, classify, error_code, is_final, retry_after_s
from synkti_client._resumable_sse import ResumableSse
from synkti_client._retry_policy import RetryPolicy

_log = logging.getLogger("synkti_client")

_REPLACED_HEADERS = frozenset({b"host", b"transfer-encoding", EVENT_IDS_HEADER.encode()})
_TRANSIENT_STATUSES = frozenset({409, 429, 500, 502, 503, 504})
_CLIENT_SIDE_ERRORS = (httpx.LocalProtocolError, httpx.UnsupportedProtocol, httpx.PoolTimeout)
_UNSENT_ERRORS = (httpx.ConnectError, httpx.ConnectTimeout)
_MAX_LOST_ENGINES = 2
_MAX_SHOWN_CHARS = 300
_ENDED = "it ended the connection"
"""Why a stream is resumed where no error says more."""

SOCKET_OPTIONS = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))
        if hasattr(socket, name)
    ),
]
"""TCP keepalive: a connection to a machine that is gone ends within half a minute, also without a read timeout."""


class Refused(httpx.ReadError):
    """A node refused a request."""


class Call:
    """A new request. body: the whole body, since it may be sent again."""

    def __init__(self, request: httpx.Request, body: bytes, nodes: Nodes, policy: RetryPolicy) -> None:
        self.traits = parse_request(request, body)
        read_timeout_s = self.traits.read_timeout_s
        deadline = None if read_timeout_s is None else time.monotonic() + read_timeout_s
        self._attempts = Attempts(nodes, policy, Bounds(deadline, single_round=self.traits.is_sdk_retry))
        self._nodes = nodes
        self._policy = policy
        self._request = request
        self._body = body
        self._error_count = 0
        nodes.credentials = _credentials(request) or nodes.credentials
        self._refusal: httpx.Response | None = None

    def begin(self) -> float | httpx.Response:
        """Begin an attempt.

        Returns:
            The seconds to wait before `choose`; at a bound, the last node's response.

        Raises:
            httpx.TransportError: a bound is reached, and no node answered.
        """
        try:
            return self._attempts.begin()
        except httpx.TransportError:
            if self._refusal is None:
                raise
            return self._refusal

    def choose(self) -> str:
        """Return the node of this attempt."""
        return self._attempts.choose()

    def remaining_s(self) -> float | None:
        """Return the seconds until the application's own timeout; None where it has none."""
        return self._attempts.remaining_s()

    def request_to(self, node: str) -> httpx.Request:
        """Return the request to send to a node."""
        headers = [(name, value) for name, value in self._request.headers.raw if name.lower() not in _REPLACED_HEADERS]
        headers.append((EVENT_IDS_HEADER.encode(), b"true"))
        timeout: dict[str, Any] = dict(self._request.extensions.get("timeout") or {})
        timeout["connect"] = _min_present(
            timeout.get("connect"),
            self._policy.connect_timeout_s * self._attempts.timeout_growth(),
            self._attempts.remaining_s(),
        )
        if self.traits.is_stream:
            timeout["read"] = self._policy.header_timeout_s
            timeout["write"] = _min_present(timeout.get("write"), self._policy.header_timeout_s)
        else:
            timeout["read"] = self._attempts.remaining_s()
        url = _url_at(node, self._request.url.raw_path)
        extensions = self._nodes.extensions(node, timeout)
        return httpx.Request(self._request.method, url, headers=headers, content=self._body, extensions=extensions)

    def on_error(self, node: str, error: httpx.TransportError) -> None:
        """Record a failed attempt. Raises the error where a retry does not help."""
        if isinstance(error, _CLIENT_SIDE_ERRORS):
            raise error
        self._refusal = None
        if isinstance(error, _UNSENT_ERRORS):
            self._attempts.on_failure(node, error)
        elif isinstance(error, httpx.TimeoutException) and self.traits.read_timeout_s is not None:
            raise error  # the application's timeout has expired
        else:
            self._attempts.on_loss(node, error)

    def accepts(self, node: str, answer: httpx.Response) -> bool:
        """Return True where the application receives this response; otherwise the request is retried."""
        verdict = classify(answer.status_code, answer.content, is_final=is_final(answer.headers))
        self._error_count += verdict is Verdict.RETRY_ONCE
        is_only_node = len(self._nodes) == 1
        if verdict is Verdict.RETURN or self._error_count > 1 or (verdict is Verdict.RETRY_ONCE and is_only_node):
            return True
        self._refusal = answer
        self._attempts.on_refusal(node, _refusal_of(answer), retry_after_s(answer.headers))
        return False

    def buffered(self, response: httpx.Response, content: bytes) -> httpx.Response:
        """Return the response with its whole body, which httpx has already decoded."""
        coded = ("content-encoding", "transfer-encoding")
        headers = [(key, value) for key, value in response.headers.multi_items() if key.lower() not in coded]
        return httpx.Response(response.status_code, headers=headers, content=content, request=self._request)

    def passthrough(self, response: httpx.Response, sent: httpx.Request) -> httpx.Response:
        """Return a response whose body the application reads itself, with its own read timeout."""
        sent.extensions["timeout"]["read"] = (self._request.extensions.get("timeout") or {}).get("read")
        return httpx.Response(
            response.status_code, headers=response.headers, stream=response.stream, request=self._request
        )

    def resumption(self, node: str, response: httpx.Response, sent: httpx.Request) -> Resumption:
        """Return the state of a stream that any node can continue."""
        self._nodes.mark_responsive(node, time.monotonic())
        set_stream_read_timeout(sent, self._policy)
        sse = ResumableSse(
            response.headers[STREAM_HEADER],
            uses_event_ids=self.traits.uses_event_ids,
            last_event_id=self.traits.last_event_id,
        )
        return Resumption(sse, self._request, self._nodes, self._policy)


class Resumption:
    """Continues one stream at other nodes. original: the application's request."""

    def __init__(self, sse: ResumableSse, original: httpx.Request, nodes: Nodes, policy: RetryPolicy) -> None:
        self.sse = sse
        self.attempts = Attempts(nodes, policy, Bounds(is_resuming=True))
        self._nodes = nodes
        self._original = original
        self._policy = policy
        self._lost_engines = 0
        self._reason = _ENDED
        self._lost: tuple[str, float] | None = None

    def feed(self, data: bytes) -> bytes:
        """Return the bytes that the application receives of a node's data. Raises StreamLost."""
        try:
            out = self.sse.feed(data)
        except ValueError as error:
            raise StreamLost(f"A node sent {error}.") from error
        if out:
            self.attempts.on_progress()
            self._lost_engines = 0
        return out

    def on_connection_error(self, node: str, error: httpx.TransportError) -> None:
        """Record that the connection to the node broke or failed. Raises the error where it is a StreamLost."""
        if isinstance(error, StreamLost):
            raise error
        self._reason = reason_of(error).partition(":")[0]
        self.attempts.on_failure(node, error)

    def on_connection_end(self, node: str) -> None:
        """Record that the connection ended. Raises StreamLost where more than two engines in a row failed."""
        code = self.sse.redirect_code
        self._lost = (f"{node} ({code or self._reason})", time.monotonic())
        if code == ENGINE_LOST:
            self._lost_engines += 1
            if self._lost_engines > _MAX_LOST_ENGINES:
                raise StreamLost(
                    f"Engines were lost under this stream at {_MAX_LOST_ENGINES + 1} nodes; it is given up."
                )
        if code is not None:
            self.attempts.on_refusal(node, Refused(code))

    def request_to(self, node: str) -> httpx.Request:
        """Return the request for the rest of the stream from a node."""
        headers = {"accept": "text/event-stream", EVENT_IDS_HEADER: "true"}
        if self.sse.last_event_id:
            headers["last-event-id"] = self.sse.last_event_id
        headers |= _credentials(self._original)
        growth = self.attempts.timeout_growth()
        timeout: dict[str, Any] = dict.fromkeys(("read", "write", "pool"), self._policy.resume_timeout_s * growth)
        timeout["connect"] = self._policy.connect_timeout_s * growth
        url = _url_at(node, f"{STREAMS_PATH}{self.sse.stream}".encode())
        return httpx.Request("GET", url, headers=headers, extensions=self._nodes.extensions(node, timeout))

    def accepts(self, answer: httpx.Response, sent: httpx.Request) -> bool:
        """Return True where this response continues the stream."""
        if answer.status_code != 200:
            return False
        set_stream_read_timeout(sent, self._policy)
        self.sse.begin_connection()
        self._log_continuation(sent)
        return True

    def _log_continuation(self, sent: httpx.Request) -> None:
        """Log that a stream outlived a node. What a node sent is shown without control characters."""
        if self._lost is None:
            return
        lost, at = self._lost
        node = f"{sent.url.scheme}://{sent.url.netloc.decode()}"
        pause_ms = (time.monotonic() - at) * 1000
        text = f"a stream outlived {lost}: it continues at {node} after {pause_ms:.0f} ms"
        _log.info("%s", "".join(char for char in text if char.isprintable()))
        self._lost, self._reason = None, _ENDED

    def on_refusal(self, node: str, answer: httpx.Response) -> None:
        """Record a refusal. Raises StreamLost where every other node would refuse too."""
        error = _refusal_of(answer)
        is_transient = answer.status_code in _TRANSIENT_STATUSES
        if not is_transient and (answer.status_code != 404 or self.attempts.on_not_found(node)):
            raise StreamLost(f"The stream cannot be resumed: {node} answers {error}")
        self.attempts.on_refusal(node, error, retry_after_s(answer.headers))


def _credentials(request: httpx.Request) -> dict[str, str]:
    """Return the headers that have the request's API key."""
    return {name: key for name in CREDENTIAL_HEADERS if (key := request.headers.get(name)) is not None}


def set_stream_read_timeout(sent: httpx.Request, policy: RetryPolicy) -> None:
    """Set the read timeout of a stream's body. A node is never silent after the head: it sends comments."""
    sent.extensions["timeout"]["read"] = policy.read_timeout_s


def _refusal_of(answer: httpx.Response) -> Refused:
    code = error_code(answer.content) or answer.text[:_MAX_SHOWN_CHARS]
    return Refused(f"{answer.status_code} {code}".strip())


def _url_at(node: str, raw_path: bytes) -> httpx.URL:
    return httpx.URL(node).copy_with(raw_path=raw_path)


def _min_present(*seconds: float | None) -> float | None:
    return min((each for each in seconds if each is not None), default=None)
