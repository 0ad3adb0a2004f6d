"""Hypothesis strategies for a parser's input: its seeds, cut, joined, repeated or corrupted, and random bytes."""

from __future__ import annotations

from hypothesis import strategies as st

_PIECES = st.sampled_from(
    [b"", b"\0", b"\xff", b"\xff\xfe", b"\n", b"\r\n", b"{", b"}", b"[", b"]", b'"', b",", b":", b"/", b" ", b"null",
     b"true", b"-1", b"0", b"1e999", b"NaN", b"9" * 30, b"[" * 2_000, b'{"a":' * 1_200, b"\\ud800", "é²٣".encode(),
     bytes(8), b"\xff" * 8, b"A" * 300, b"\xef\xbb\xbf", b"18446744073709551616", b"..", b"%00"]
)  # fmt: skip
_EDITS = st.tuples(st.integers(0, 400), st.integers(0, 40), _PIECES | st.binary(max_size=12))


def around(seeds: tuple[bytes, ...]) -> st.SearchStrategy[bytes]:
    """Return a strategy: a seed with edits (position, bytes removed and inserted), two seeds joined, or any bytes."""
    seed = st.sampled_from(seeds)
    edited = st.builds(_edited, seed, st.lists(_EDITS, max_size=5))
    return st.one_of(edited, edited, st.builds(_joined, seed, seed, st.integers(0, 400)), st.binary(max_size=300))


def _edited(seed: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    for at, gone, piece in edits:
        place = at % (len(seed) + 1)
        seed = seed[:place] + piece + seed[place + gone :]
    return seed


def _joined(first: bytes, second: bytes, at: int) -> bytes:
    return first[: at % (len(first) + 1)] + second
