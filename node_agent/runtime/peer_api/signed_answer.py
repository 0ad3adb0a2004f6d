"""Sign the answers to a peer's request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from node_agent.core.common.request_auth import ANSWER_AUTH_HEADER, Verified, sign_answer
from node_agent.ports import ServerRequest

_Headers = Sequence[tuple[bytes, bytes]]


class SignedRequestProxy:
    """The ServerRequest port over a verified request: signs the head of its response, and a whole body.

    Interim responses (`accept`) are not signed: they only extend a wait.
    """

    def __init__(self, request: ServerRequest, verified: Verified) -> None:
        self._request = request
        self._verified = verified
        self._added: dict[bytes, bytes] = {}
        # What is called for each part of a stream, without a call in between.
        self.write = request.write
        self.end = request.end
        self.accept = request.accept
        self.when_gone = request.when_gone
        self.when_congested = request.when_congested
        self.forget_body = request.forget_body

    @property
    def sender(self) -> str:
        """The instance id of the node that sent the request."""
        return self._verified.sender

    @property
    def address(self) -> str:
        """The peer's IP address."""
        return self._request.address

    @property
    def peer(self) -> str:
        """The node at the other end of the connection, by TLS; empty without TLS."""
        return self._request.peer

    @property
    def method(self) -> str:
        """The method."""
        return self._request.method

    @property
    def path(self) -> str:
        """The path, percent-decoded, without the query."""
        return self._request.path

    @property
    def target(self) -> str:
        """The path and the query."""
        return self._request.target

    @property
    def headers(self) -> Mapping[bytes, bytes]:
        """The request's headers, by names in lower case."""
        return self._request.headers

    @property
    def body(self) -> bytes:
        """The complete body."""
        return self._request.body

    @property
    def is_gone(self) -> bool:
        """Whether the peer has closed its connection."""
        return self._request.is_gone

    @property
    def is_congested(self) -> bool:
        """Whether the peer reads less than it is sent."""
        return self._request.is_congested

    def add_headers(self, headers: _Headers) -> None:
        """Add headers to the response, before it begins; the last value of a name counts."""
        self._added |= dict(headers)
        self._request.add_headers(headers)

    def respond(self, status: int, body: bytes, content_type: bytes = b"application/json", more: _Headers = ()) -> None:
        """Send the whole response, signed."""
        self._request.respond(status, body, content_type, [*more, self._signature(status, content_type, more, body)])

    def begin(self, status: int, content_type: bytes, more: _Headers = ()) -> None:
        """Send the head of a response, signed; its body is not."""
        self._request.begin(status, content_type, [*more, self._signature(status, content_type, more, None)])

    def _signature(self, status: int, content_type: bytes, more: _Headers, body: bytes | None) -> tuple[bytes, bytes]:
        headers = [*self._added.items(), *more, *([(b"content-type", content_type)] if content_type else [])]
        named = ((name.decode("latin-1"), value.decode("latin-1")) for name, value in headers)
        line = sign_answer(self._verified.key, self._verified.nonce, status, named, body)
        return ANSWER_AUTH_HEADER, line.encode()
