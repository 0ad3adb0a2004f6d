"""The routes that a node answers itself: each has a handler, and each handler has a route."""

from __future__ import annotations

from typing import Any

from node_agent.core.openai import routes
from node_agent.runtime.client_api.node_routes import NodeRoutes
from node_agent.runtime.ui.page import Page


def test_each_own_route_has_a_handler_and_each_handler_a_route() -> None:
    unused: Any = None
    page = Page({}, unused, unused, is_on=True).handlers
    assert {*NodeRoutes(unused, unused, "http", lambda: "off", ()).handlers, *page} == set(routes.NODE_ROUTES)
