"""The OpenAPI document lists exactly the routes that there are, and what a key has to have for them."""

from __future__ import annotations

import json

import pytest

from node_agent.contract.client_requests import OPTIONAL_ROUTES
from node_agent.core.openai import routes
from node_agent.core.openai.openapi import document

WHOLE = document(OPTIONAL_ROUTES)
OPERATIONS = {(path, method): it for path, methods in WHOLE["paths"].items() for method, it in methods.items()}


def example(path: str) -> str:
    return path.replace("{stream}", "s-1.ab").replace("{response}", "resp_1")


def test_it_is_json_and_each_operation_has_a_name_of_its_own() -> None:
    assert json.loads(json.dumps(WHOLE)) == WHOLE
    assert len({each["operationId"] for each in OPERATIONS.values()}) == len(OPERATIONS) > 25


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_each_operation_is_a_route_with_its_scope(path: str, method: str) -> None:
    operation = OPERATIONS[path, method]
    assert method.upper() in routes.allowed_methods(example(path), OPTIONAL_ROUTES)
    scope = routes.required_scope(path)
    assert ("security" in operation) is (scope is not None)
    assert scope is None or f"`{scope}`" in operation["description"]
    assert ("parameters" in operation) is ("{" in path)


def test_no_route_is_missing_and_optional_ones_are_there_only_where_they_are_allowed() -> None:
    own = routes.NODE_ROUTES.keys() - routes.PAGE_FILES.keys()
    assert own | {"/v1/chat/completions", "/v1/messages"} <= document()["paths"].keys()
    assert set(WHOLE["paths"]) - set(document()["paths"]) == OPTIONAL_ROUTES
    assert set(document(["/tokenize"])["paths"]) - set(document()["paths"]) == {"/tokenize"}


def test_a_fleet_without_keys_requires_none() -> None:
    open_to_all = document(keys_required=False)
    assert "securitySchemes" not in open_to_all["components"]
    assert not any("security" in each for methods in open_to_all["paths"].values() for each in methods.values())
