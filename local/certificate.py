"""Builds the continuity certificate: what every client received, compared with the uninterrupted reference. Pure.

A stream is compared token by token with its reference, and by a SHA-256 chain over tokens and text, so that the result
can be checked without trust in the comparison: equal chain heads mean equal outputs.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any


@dataclass(frozen=True)
class Output:
    """The output of one choice, as received or as expected: token ids and text."""

    token_ids: tuple[int, ...]
    text: str

    @property
    def hash_chain(self) -> str:
        """The head of the SHA-256 chain: a link hashes the one before and a token, the last one the text."""
        head = b""
        for token in self.token_ids:
            head = hashlib.sha256(head + token.to_bytes(8, "big")).digest()
        return hashlib.sha256(head + self.text.encode()).hexdigest()


@dataclass(frozen=True)
class StreamOutcome:
    """The outcome of one stream. fault_kind: of its interruption; pause_ms: None if it did not lose its engine."""

    name: str
    reference: Output
    delivered: Output
    fault_kind: str | None = None
    pause_ms: float | None = None
    error: str | None = None

    @property
    def resumed(self) -> bool:
        """True if it continued after the loss of its engine."""
        return self.pause_ms is not None

    @property
    def lost_tokens(self) -> int:
        """The number of the reference's tokens that were not delivered."""
        return self._count_differences()[0]

    @property
    def duplicated_tokens(self) -> int:
        """The number of delivered tokens that have no place in the reference."""
        return self._count_differences()[1]

    @property
    def verified(self) -> bool:
        """True if exactly the reference was delivered, tokens and text."""
        return self.delivered.hash_chain == self.reference.hash_chain

    def _count_differences(self) -> tuple[int, int]:
        if self.delivered.token_ids == self.reference.token_ids:
            return 0, 0
        lost = duplicated = 0
        matcher = SequenceMatcher(None, self.reference.token_ids, self.delivered.token_ids, autojunk=False)
        for kind, a, b, c, d in matcher.get_opcodes():
            if kind != "equal":
                lost += b - a
                duplicated += d - c
        return lost, duplicated


def quantile(values: Sequence[float], share: float) -> float | None:
    """Return the smallest value that `share` of all values do not exceed; None if there are no values."""
    if not values:
        return None
    return round(sorted(values)[max(0, math.ceil(len(values) * share) - 1)], 1)


def build_certificate(
    engine: str, seed: int | None, interruptions: dict[str, int], streams: Sequence[StreamOutcome], duration_s: float
) -> dict[str, Any]:
    """Build the document. interruptions: counts by kind."""
    kinds = sorted(
        {stream.fault_kind for stream in streams if stream.fault_kind is not None and stream.pause_ms is not None}
    )
    return {
        "engine": engine,
        "seed": seed,
        "interruptions": {**interruptions, "total": sum(interruptions.values())},
        "streams": len(streams),
        "resumed": sum(stream.resumed for stream in streams),
        "tokens": {
            "delivered": sum(len(stream.delivered.token_ids) for stream in streams),
            "lost": sum(stream.lost_tokens for stream in streams),
            "duplicated": sum(stream.duplicated_tokens for stream in streams),
        },
        "client_errors": sum(stream.error is not None for stream in streams),
        "chains_verified": sum(stream.verified for stream in streams),
        "chains": {stream.name: stream.delivered.hash_chain for stream in streams},
        "pause_ms": {**_pauses(streams, None), "by_kind": {kind: _pauses(streams, kind) for kind in kinds}},
        "duration_s": round(duration_s, 1),
    }


def _pauses(streams: Sequence[StreamOutcome], kind: str | None) -> dict[str, float | None]:
    pauses = [s.pause_ms for s in streams if s.pause_ms is not None and kind in (None, s.fault_kind)]
    return {f"p{percent}": quantile(pauses, percent / 100) for percent in (50, 95, 99)}


def passed(document: dict[str, Any]) -> bool:
    """Return True if no token was lost or duplicated, no client had an error, and every chain is equal."""
    tokens = document["tokens"]
    bad = (tokens["lost"], tokens["duplicated"], document["client_errors"])
    return bad == (0, 0, 0) and bool(document["chains_verified"] == document["streams"])


def to_json(document: dict[str, Any]) -> str:
    """Format the document as it is written to certificate.json."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
