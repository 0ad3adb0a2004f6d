"""An engine's model cards are parsed or rejected."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.core.openai.model_cards import MAX_CARDS, read_cards

BASE = {"id": "llama", "object": "model", "created": 5, "owned_by": "vllm", "root": "/m", "max_model_len": 4096}
ADAPTER = {"id": "sql", "object": "model", "root": "/a", "parent": "llama", "max_model_len": None}


def test_every_name_of_an_engine_has_its_card() -> None:
    cards = read_cards(orjson.dumps({"object": "list", "data": [BASE, ADAPTER]}))
    assert cards is not None
    assert cards.cards == (BASE, ADAPTER)
    assert cards.names == {"llama", "sql"}
    assert cards.max_model_len == 4096


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"data":5}', b'{"data":{}}', b"\xff", b"null"])
def test_an_invalid_list_of_cards_is_none(body: bytes) -> None:
    assert read_cards(body) is None


VALUES = st.none() | st.integers(-(2**40), 2**40) | st.text()
ODD = st.dictionaries(st.sampled_from(["id", "max_model_len"]), VALUES) | st.text()


@given(st.lists(ODD))
def test_invalid_cards_are_left_out(cards: list[Any]) -> None:
    read = read_cards(orjson.dumps({"data": cards}))
    assert read is not None
    assert all(isinstance(card["id"], str) and card["id"] for card in read.cards)


def test_their_number_is_bounded() -> None:
    read = read_cards(orjson.dumps({"data": [{"id": str(number)} for number in range(5_000)]}))
    assert read is not None
    assert len(read.cards) == MAX_CARDS
