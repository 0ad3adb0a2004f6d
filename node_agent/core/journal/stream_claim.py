"""Decide who may resume a stream: the key that began it, and only with the stream's resume token.

A stream has a public id: it is in the completion's id (`chatcmpl-<stream>`), in logs and in the table. Its *resume
token* is that id and 16 random bytes, which only the client receives: as `X-Synkti-Stream` and in the `id:` lines of
its events. The stream's header has the digest of the token and the id of the client's key.

Each node that has a journal checks the claim before it fences the owner: a foreign claim changes nothing, and its
answer is that of an unknown stream.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass, field

STREAM_CHARACTERS = 24
TOKEN_BYTES = 16
DIGEST_CHARACTERS = 64

_TOKEN = re.compile(r"([0-9a-f]{24})[0-9a-f]{32}")
_STREAM = re.compile(r"[0-9a-f]{24}")
_KEY_ID = re.compile(r"[0-9a-f]{0,12}")
_DIGEST = re.compile(r"([0-9a-f]{64})?")
_IN_HEADER = re.compile(rb'\{"claim":"([0-9a-f]{0,12})\.([0-9a-f]{64})"')
"""At the beginning of a header: it is read without the rest, which may have megabytes."""


@dataclass(frozen=True, slots=True)
class StreamClaim:
    """Who a stream belongs to, in its header; or who a request to resume it comes from.

    Attributes:
        key_id: Of the client's key, "" where keys are off.
        token_digest: SHA-256 of the resume token, "" for a bare id: streams of older agents have no token.
    """

    key_id: str = ""
    token_digest: str = ""

    def __str__(self) -> str:
        return f"{self.key_id}.{self.token_digest}"

    def admits(self, other: StreamClaim) -> bool:
        """Return whether a request with the other claim may resume the stream with this one.

        A stream that began without a key belongs to whoever has its token, also once keys are on.
        """
        same_token = hmac.compare_digest(self.token_digest.encode(), other.token_digest.encode())
        return same_token and self.key_id in ("", other.key_id)


NO_CLAIM = StreamClaim()


@dataclass(frozen=True, slots=True)
class ResumeToken:
    """What a client resumes its stream with.

    Attributes:
        stream: The stream's public id.
        text: The token, which is in no representation and no log.
    """

    stream: str
    text: str = field(repr=False)

    @property
    def is_possible(self) -> bool:
        """True where a stream may have this id: agents of all versions make ids of one form."""
        return _STREAM.fullmatch(self.stream) is not None

    def claim(self, key_id: str) -> StreamClaim:
        """Return the claim of a caller with this token. key_id: of its key, "" where keys are off."""
        if self.text == self.stream:
            return StreamClaim(key_id)
        return StreamClaim(key_id, hashlib.sha256(self.text.encode()).hexdigest())


def make_token(stream: str, secret: bytes) -> ResumeToken:
    """Make a stream's token. secret: TOKEN_BYTES random bytes."""
    return ResumeToken(stream, stream + secret.hex())


def parse_token(text: str) -> ResumeToken:
    """Parse what a client sent as its token; what has not the form of one is a bare stream id."""
    found = _TOKEN.fullmatch(text)
    return ResumeToken(text if found is None else found[1], text)


def read_claim(header: bytes) -> StreamClaim:
    """Return the claim in a stream's header; NO_CLAIM for the header of an older agent."""
    found = _IN_HEADER.match(header)
    return NO_CLAIM if found is None else StreamClaim(found[1].decode(), found[2].decode())


def parse_claim(key_id: object, token_digest: object) -> StreamClaim:
    """Parse the claim of a peer's request. Raises ValueError."""
    if not isinstance(key_id, str) or not isinstance(token_digest, str):
        raise ValueError("not a claim")
    if _KEY_ID.fullmatch(key_id) is None or _DIGEST.fullmatch(token_digest) is None:
        raise ValueError("not a claim")
    return StreamClaim(key_id, token_digest)
