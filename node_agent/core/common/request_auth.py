"""Authenticate requests between peers, and their answers: each has an HMAC by a key that the two nodes share.

    v3 MILLISECONDS KEY SENDER RECEIVER NONCE SIGNATURE      the value of AUTH_HEADER

The signature is over these fields, the method, the target, the headers and the body. KEY is the id of the cluster's key
from which the two nodes' own key is made, SENDER an instance id. RECEIVER is an instance id, a slash and the boot id
of one run of its agent (`receiver_name`): a message is valid at no other node, and not at the same node after a
restart. So the receiver needs to store no nonce longer than its process lives.

A message is rejected when its signature is wrong, when it is for another receiver, when it is older or newer than the
allowed skew, or when its nonce was used within that time.

Only the receiver's clock decides what is old. A sender that does not have the receiver's boot id, or whose clock
differs, is rejected once: the receiver answers with its boot id and its time, signed over the nonce of the message that
it answers (an old answer, or another party's, changes nothing), and the sender signs again. Nodes that are members of
one fleet have each other's boot ids by gossip, so this costs them nothing.

An answer is signed over the request's nonce, its status, its headers and its body; of a stream all but the body
(TLS protects that). Signing costs nothing per token.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from node_agent.core.common.cluster_keys import ClusterKey

AUTH_HEADER = "x-synkti-auth"
ANSWER_AUTH_HEADER = b"x-synkti-answer-auth"
"""A header of the peer API's answers: see `sign_answer`."""

CLOCK_HEADER = b"x-synkti-clock"
"""A header of the peer API's answers: its boot id and its time, see `sign_clock`."""

MAX_SKEW_S = 30.0
MAX_NONCES = 200_000
"""Nonces in memory; at the bound the oldest are removed, still far more than a node receives in the allowed skew."""

UNKNOWN_RUN = "?"
"""In place of a boot id that the sender does not have."""

_UNSIGNED_HEADERS = frozenset(
    (AUTH_HEADER, ANSWER_AUTH_HEADER.decode(), CLOCK_HEADER.decode(),
     "host", "connection", "content-length", "transfer-encoding", "date")
)  # fmt: skip
"""Those that HTTP clients and servers add for the connection, and those that are signatures themselves."""

_MAX_TIMESTAMP_DIGITS = 16
_MAX_NAME_CHARS = 128
_NO_BODY = "-"


class Refusal(Enum):
    """Why a message is not accepted; the value is for people."""

    UNSIGNED = "no signature"
    FOREIGN_KEY = "signed with a cluster key that this node does not have"
    UNKNOWN_NODE = "from a node that EC2 has not vouched for"
    SHUT_OUT = "from a node that was shut out"
    WRONG_SIGNATURE = "wrong signature"
    OTHER_RECEIVER = "for another receiver"
    OTHER_RUN = "for another run of this node's agent"
    WRONG_TIME = "too old or too new"
    REPEATED = "seen before"


CLOCK_REFUSALS = frozenset({Refusal.OTHER_RUN, Refusal.WRONG_TIME})
"""Refusals after which the sender may sign again, for the receiver's boot id and with its time."""

PeerKey = Callable[[str, str], ClusterKey | Refusal]
"""Returns the key that this node shares with a node (its instance id) under a cluster key (its id)."""


class Stamp(NamedTuple):
    """The fields of AUTH_HEADER. at_ms: unix milliseconds."""

    at_ms: int
    key_id: str
    sender: str
    receiver: str
    nonce: str
    signature: str


def receiver_name(instance_id: str, run: str) -> str:
    """Return a RECEIVER. run: the boot id of its agent, in hexadecimal digits, or UNKNOWN_RUN."""
    return f"{instance_id}/{run}"


def request_content(method: str, target: str, headers: Iterable[tuple[str, str]], body: bytes) -> str:
    """Return what a request's signature is over, beside the fields of its stamp."""
    return "\n".join(("request", method, target, *_header_lines(headers), hashlib.sha256(body).hexdigest()))


def _header_lines(headers: Iterable[tuple[str, str]]) -> list[str]:
    """Return the signed headers in one order. A value has no line breaks: HTTP's parsers refuse them."""
    lowered = ((name.lower(), value) for name, value in headers)
    return sorted(f"{name}:{value.strip()}" for name, value in lowered if name not in _UNSIGNED_HEADERS)


def sign(key: ClusterKey, content: str, at: float, sender: str, receiver: str, nonce: str) -> str:
    """Return the value of AUTH_HEADER that signs a message. at: unix seconds, by the receiver's clock if known."""
    head = ("v3", str(round(at * 1000)), key.key_id, sender, receiver, nonce)
    return " ".join((*head, _hmac(key, *head, content)))


def read_stamp(header: str) -> Stamp | None:
    """Parse a value of AUTH_HEADER; None where it is none."""
    version, *fields = header.split(" ")
    if version != "v3" or len(fields) != len(Stamp._fields) or not _is_timestamp(fields[0]):
        return None
    if not all(fields) or max(map(len, fields)) > _MAX_NAME_CHARS:
        return None
    return Stamp(int(fields[0]), *fields[1:])


def _hmac(key: ClusterKey, *parts: str) -> str:
    return hmac.new(key.secret, "\n".join(parts).encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()


def _is_equal(expected: str, given: str) -> bool:
    return hmac.compare_digest(expected.encode(), given.encode("utf-8", "surrogateescape"))


def _is_timestamp(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _MAX_TIMESTAMP_DIGITS


# answers


def sign_answer(
    key: ClusterKey, nonce: str, status: int, headers: Iterable[tuple[str, str]], body: bytes | None
) -> str:
    """Return the value of ANSWER_AUTH_HEADER. nonce: the request's; body: None for a stream, whose body is unsigned."""
    digest = _NO_BODY if body is None else hashlib.sha256(body).hexdigest()
    return f"v3 {digest} {_hmac(key, 'answer', nonce, str(status), *_header_lines(headers), digest)}"


@dataclass(frozen=True)
class SignedAnswer:
    """An answer whose head is authentic."""

    body_digest: str

    @property
    def is_stream(self) -> bool:
        """Whether the body is not signed."""
        return self.body_digest == _NO_BODY

    def has_body(self, body: bytes) -> bool:
        """Return whether this is the whole body of the answer; always of a stream's."""
        return self.is_stream or _is_equal(self.body_digest, hashlib.sha256(body).hexdigest())


def read_answer(
    key: ClusterKey, nonce: str, status: int, headers: Iterable[tuple[str, str]], line: str
) -> SignedAnswer | None:
    """Verify the head of an answer; None where it is not the peer's answer to the request with this nonce."""
    parts = line.split(" ")
    if len(parts) != 3 or parts[0] != "v3":
        return None
    _, digest, given = parts
    expected = _hmac(key, "answer", nonce, str(status), *_header_lines(headers), digest)
    return SignedAnswer(digest) if _is_equal(expected, given) else None


# the receiver's boot id and time


@dataclass(frozen=True)
class ReceiverClock:
    """A receiver's time, in unix seconds, and the boot id of its agent."""

    at: float
    run: str


def sign_clock(key: ClusterKey, run: str, now: float, nonce: str) -> str:
    """Sign the receiver's boot id and time, in answer to the message with that nonce."""
    time = str(round(now * 1000))
    return f"v3 {time} {run} {_hmac(key, 'clock', time, run, nonce)}"


def read_clock(key: ClusterKey, line: str, nonce: str) -> ReceiverClock | None:
    """Verify a receiver's time; None where it is not signed by that peer, or not in answer to this nonce."""
    parts = line.split(" ")
    if len(parts) != 4 or parts[0] != "v3" or not _is_timestamp(parts[1]) or not 0 < len(parts[2]) <= _MAX_NAME_CHARS:
        return None
    _, time, run, given = parts
    if not _is_equal(_hmac(key, "clock", time, run, nonce), given):
        return None
    return ReceiverClock(int(time) / 1000, run)


# verification


@dataclass(frozen=True)
class Verified:
    """An accepted message: its sender's instance id, its nonce, and the key for the answer."""

    sender: str
    nonce: str
    key: ClusterKey


@dataclass(frozen=True)
class Rejected:
    """A message that is not accepted.

    clock: this receiver's signed time, for the sender of a message that was rejected by one of CLOCK_REFUSALS.
    sender: the instance id in the message, which may be false; "" where there is none.
    """

    reason: Refusal
    clock: str | None = None
    sender: str = ""


class RequestVerifier:
    """Verifies received messages, with the nonces of the allowed skew. The caller's clock must not jump.

    run: the boot id of this run of the agent, in hexadecimal digits.
    """

    def __init__(self, instance_id: str, run: str, peer_key: PeerKey, max_nonces: int = MAX_NONCES) -> None:
        self._instance_id = instance_id
        self.run = run
        self.peer_key = peer_key
        self._max = max_nonces
        self._seen: set[str] = set()
        self._order: deque[tuple[float, str]] = deque()

    def verify(self, header: str | None, content: str, now: float) -> Verified | Rejected:
        """Verify a message; one that is accepted uses its nonce up. content: as `request_content` returns it."""
        stamp = read_stamp(header or "")
        if header is None or stamp is None:
            return Rejected(Refusal.UNSIGNED)
        key = self.peer_key(stamp.sender, stamp.key_id)
        if isinstance(key, Refusal):
            return Rejected(key, sender=stamp.sender)
        if not _is_equal(_hmac(key, *header.split(" ")[:-1], content), stamp.signature):
            return Rejected(Refusal.WRONG_SIGNATURE, sender=stamp.sender)
        reason = self._check(stamp, now)
        if reason is None:
            return Verified(stamp.sender, stamp.nonce, key)
        clock = sign_clock(key, self.run, now, stamp.nonce) if reason in CLOCK_REFUSALS else None
        return Rejected(reason, clock, stamp.sender)

    def _check(self, stamp: Stamp, now: float) -> Refusal | None:
        instance_id, _, run = stamp.receiver.rpartition("/")
        if instance_id != self._instance_id:
            return Refusal.OTHER_RECEIVER
        if run != self.run:
            return Refusal.OTHER_RUN
        if abs(now - stamp.at_ms / 1000) > MAX_SKEW_S:
            return Refusal.WRONG_TIME
        return self._use_up(stamp.nonce, now)

    def _use_up(self, nonce: str, now: float) -> Refusal | None:
        self._forget(now)
        if nonce in self._seen:
            return Refusal.REPEATED
        self._seen.add(nonce)
        self._order.append((now, nonce))
        return None

    def _forget(self, now: float) -> None:
        while self._order and (now - self._order[0][0] > 2 * MAX_SKEW_S or len(self._order) >= self._max):
            self._seen.discard(self._order.popleft()[1])
