"""Test who may resume a stream."""

from __future__ import annotations

import pytest

from node_agent.core.journal.epochs import Epoch, EpochRange
from node_agent.core.journal.stream_claim import (
    NO_CLAIM,
    StreamClaim,
    make_token,
    parse_claim,
    parse_token,
    read_claim,
)
from node_agent.core.journal.stream_header import StreamHeader, parse_stream_header
from node_agent.core.openai.generation_request import ApiRoute, read_generation

STREAM, KEY, OTHER_KEY = "5" * 24, "a" * 12, "b" * 12
TOKEN = make_token(STREAM, bytes(range(16)))
CLAIM = TOKEN.claim(KEY)


def _header(claim: StreamClaim) -> StreamHeader:
    generation = read_generation(ApiRoute.COMPLETION, b'{"model":"m","prompt":"p","stream":true}')
    return StreamHeader(generation, (EpochRange(0, Epoch(1, "i-1")),), None, claim=claim)


def test_a_token_round_trips_and_names_its_stream() -> None:
    assert parse_token(TOKEN.text) == TOKEN
    assert TOKEN.stream == STREAM
    assert TOKEN.text.startswith(STREAM)
    assert TOKEN.text not in repr(TOKEN)


@pytest.mark.parametrize("text", ["abc", "", STREAM[1:], "F" * 24, f"chatcmpl-{STREAM}", TOKEN.text + "0"])
def test_a_malformed_id_is_of_no_stream(text: str) -> None:
    assert not parse_token(text).is_possible
    assert parse_token(STREAM).is_possible
    assert parse_token(TOKEN.text).is_possible


def test_a_claim_does_not_have_the_token() -> None:
    assert TOKEN.text[24:] not in str(CLAIM)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (STREAM, KEY),
        (STREAM + "0" * 32, KEY),
        (STREAM.upper(), KEY),
        (f"chatcmpl-{STREAM}", KEY),
        (TOKEN.text, OTHER_KEY),
        (TOKEN.text, ""),
        (TOKEN.text + "0", KEY),
        ("", KEY),
    ],
)
def test_a_stream_is_not_of_another_token_or_key(text: str, key: str) -> None:
    assert CLAIM.admits(TOKEN.claim(KEY))
    assert not CLAIM.admits(parse_token(text).claim(key))


def test_a_stream_that_began_without_a_key_is_of_its_token() -> None:
    assert TOKEN.claim("").admits(TOKEN.claim(KEY))
    assert not TOKEN.claim("").admits(parse_token(STREAM).claim(KEY))


def test_the_header_begins_with_the_claim_and_keeps_it() -> None:
    raw = _header(CLAIM).to_bytes()
    assert read_claim(raw) == CLAIM
    assert parse_stream_header(raw).claim == CLAIM
    assert TOKEN.text.encode() not in raw, "whoever reads a journal cannot resume its stream"


def test_a_stream_of_an_older_agent_is_of_its_bare_id() -> None:
    raw = _header(NO_CLAIM).to_bytes()
    assert b"claim" not in raw
    assert read_claim(raw).admits(parse_token(STREAM).claim(KEY))
    assert not read_claim(raw).admits(TOKEN.claim(KEY))


def test_a_claim_in_a_prompt_is_no_claim() -> None:
    assert read_claim(b'{"kind":"x","body":{"claim":"' + str(CLAIM).encode() + b'"}}') == NO_CLAIM


@pytest.mark.parametrize(
    ("key", "digest"), [(7, ""), ("", None), ("A" * 12, ""), ("a" * 13, ""), ("", "0" * 63), ("", "G" * 64)]
)
def test_a_peers_claim_that_is_none_is_refused(key: object, digest: object) -> None:
    with pytest.raises(ValueError, match="not a claim"):
        parse_claim(key, digest)
