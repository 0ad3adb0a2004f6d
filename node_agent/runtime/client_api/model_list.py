"""List the models that the fleet serves, as its engines describe them.

This node's engine is polled; others are requested when a client asks for the list.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from node_agent.core.common.address import Address
from node_agent.core.engine.polled_paths import MODELS
from node_agent.core.openai.model_cards import NO_CARDS, ModelCards, minimal_card, read_cards
from node_agent.core.routing.router import Route, RouteRequest
from node_agent.ports import ExchangeLost, Http, Response
from node_agent.runtime.engine.client import EngineClient
from node_agent.runtime.node.context import NodeContext

_KNOWN_EVERY_S = 5.0
_UNKNOWN_EVERY_S = 0.5
_SILENCE_S = 2.0
_MAX_BYTES = 1024 * 1024
_OTHERS_EVERY_S = 5.0
_MAX_OTHERS = 16
"""Models of other nodes whose cards are requested; more are listed by name only."""


class ModelList:
    """Holds model cards.

    own: the cards of this node's engine.
    engine: where it answers.
    """

    def __init__(self, node: NodeContext, engines: EngineClient, client: Http, engine: Address) -> None:
        self.own: ModelCards = NO_CARDS
        self._node = node
        self._engines = engines
        self._client = client
        self._engine = engine
        self._others: dict[str, ModelCards] = {}
        self._owners: dict[str, str] = {}  # of the others' names: the model that each is another name of
        self._fetched_at = -_OTHERS_EVERY_S

    async def run(self) -> None:
        """Poll this node's engine, until cancelled: adapters come and go while an engine runs."""
        while True:
            if self._node.state.takes_requests:
                await self._refresh()
            await asyncio.sleep(_KNOWN_EVERY_S if self.own.cards else _UNKNOWN_EVERY_S)

    async def _refresh(self) -> None:
        response = self._client.request(self._engine, "GET", MODELS, headers={}, read_timeout_s=_SILENCE_S)
        self.own = await _read_response(response) or self.own
        self._node.served_names = self.own.names

    async def base_model(self, name: str | None) -> str | None:
        """Return the model that a name stands for on any engine of the fleet; the name itself where it is unknown.

        Other nodes are requested at most every few seconds, so that unknown names cost nothing.
        """
        found = self._node.base_model(name)
        if name is None or found != name or self._node.serves(name):
            return found
        now = self._node.gossip.monotonic()
        if name not in self._owners and now - self._fetched_at > _OTHERS_EVERY_S and len(self._node.models()) > 1:
            self._fetched_at = now
            await self.list_all()
        return self._owners.get(name, name)

    async def list_all(self) -> list[Mapping[str, Any]]:
        """Return the cards of all models that the fleet serves now, this node's first."""
        served = self._node.models()
        own = self._node.model
        cards = [*self.own.cards] if own in served and self.own.cards else []
        missing = sorted(served - {card["id"] for card in cards})
        await asyncio.gather(*(self._fetch(model) for model in missing[:_MAX_OTHERS]))
        self._others = {model: self._others[model] for model in missing if model in self._others}
        self._owners = {name: model for model, known in self._others.items() for name in known.names}
        for model in missing:
            known = self._others.get(model, NO_CARDS).cards
            cards += known or [minimal_card(model, int(self._node.wall_clock()))]
        return cards

    async def _fetch(self, model: str) -> None:
        """Fetch the cards of a model from a node that serves it; without an answer the previous ones stay."""
        route = self._node.route(RouteRequest(model))
        if not isinstance(route, Route):
            return
        response = self._engines.request(
            route.node, "GET", MODELS, {}, b"", max_tokens=None, silence_timeout_s=_SILENCE_S
        )
        if (cards := await _read_response(response)) is not None:
            self._others[model] = cards
            self._node.on_request_succeeded(route.node.instance_id)


async def _read_response(response: Response) -> ModelCards | None:
    """Return the cards of an engine's response; None where it has none."""
    try:
        await response.head()
        return read_cards(await response.read_all(_MAX_BYTES)) if response.status == 200 else None
    except ExchangeLost:
        return None
    finally:
        response.close()
