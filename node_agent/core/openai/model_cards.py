"""Parse the model cards of an engine's /v1/models, with the names that clients may request.

An engine has one model, several names (`--served-model-name a b`) and adapters (LoRA), each with a card of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

MAX_CARDS = 256
"""Bounds the number of adapters; the names of further ones are unknown here, though an engine would serve them."""

MAX_NAME = 512


@dataclass(frozen=True)
class ModelCards:
    """The models of an engine.

    cards: in the engine's order and words. names: their ids. max_model_len: the context length, None if unknown.
    """

    cards: tuple[Mapping[str, Any], ...] = ()
    names: frozenset[str] = frozenset()
    max_model_len: int | None = None


NO_CARDS = ModelCards()


def read_cards(body: bytes) -> ModelCards | None:
    """Parse an engine's response; None where it is invalid."""
    try:
        listed = orjson.loads(body)["data"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
    if not isinstance(listed, list):
        return None
    cards = [card for card in listed[:MAX_CARDS] if isinstance(card, dict) and _is_name(card.get("id"))]
    lengths = [length for card in cards if isinstance(length := card.get("max_model_len"), int) and length > 0]
    return ModelCards(tuple(cards), frozenset(card["id"] for card in cards), min(lengths, default=None))


def _is_name(name: object) -> bool:
    return isinstance(name, str) and 0 < len(name) <= MAX_NAME


def minimal_card(model: str, created: int) -> dict[str, Any]:
    """Build the card of a model of which only the name is known. created: unix seconds."""
    return {"id": model, "object": "model", "created": created, "owned_by": "vllm"}
