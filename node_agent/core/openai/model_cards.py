"""What an engine says it serves: the cards of its /v1/models, with the names under which clients may ask for it.

An engine has one model, several names (`--served-model-name a b`) and adapters (LoRA), each with a card of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

MAX_CARDS = 256
"""Adapters may be many; a name beyond them is not known here, though an engine would serve it."""

MAX_NAME = 512


@dataclass(frozen=True)
class ModelCards:
    """cards: in the engine's order and words; names: their ids; max_model_len: the context length, None if unknown."""

    cards: tuple[Mapping[str, Any], ...] = ()
    names: frozenset[str] = frozenset()
    max_model_len: int | None = None


NO_CARDS = ModelCards()


def read_cards(body: bytes) -> ModelCards | None:
    """An engine's answer; None where it is none."""
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
    """The card of a model of which nothing but its name is known. created: unix seconds."""
    return {"id": model, "object": "model", "created": created, "owned_by": "vllm"}
