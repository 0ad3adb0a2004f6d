"""Reading variables: defaults, empty texts, and faults that are collected."""

from __future__ import annotations

import pytest

from node_agent.core.common.address import Address
from node_agent.settings import parsers as parse
from node_agent.settings.environ_reader import EnvironReader


def test_a_variable_that_is_not_set_has_its_default() -> None:
    read = EnvironReader({})
    assert read.get("SIZE", 7, parse.size) == 7
    assert read.line("NAME", "default") == "default"
    assert read.optional("TABLE") is None
    assert read.optional("TABLE", "records") == "records"
    assert read.address("ENGINE", "127.0.0.1", 8002) == Address("127.0.0.1", 8002)
    assert not read.faults


def test_an_empty_text_is_the_default_but_for_an_optional_text_it_is_none() -> None:
    read = EnvironReader({"SIZE": "", "TABLE": "", "ADDRESS": ""})
    assert read.get("SIZE", 7, parse.size) == 7
    assert read.optional("TABLE", "records") is None
    assert read.get("ADDRESS", None, parse.node_address) is None
    assert not read.faults


def test_every_wrong_variable_is_a_fault_with_its_name_and_has_its_default() -> None:
    read = EnvironReader({"SIZE": "many", "DOOR_PORT": "0", "DOOR_HOST": "a b"})
    assert read.get("SIZE", 7, parse.size) == 7
    assert read.address("DOOR", "127.0.0.1", 80) == Address("127.0.0.1", 80)
    assert [fault.partition("=")[0] for fault in read.faults] == ["SIZE", "DOOR_HOST", "DOOR_PORT"]


def test_a_text_nested_too_deep_is_a_fault() -> None:
    read = EnvironReader({"ARGS": "[" * 100_000})
    default: tuple[str, ...] = ("default",)
    assert read.get("ARGS", default, parse.arguments) == default
    assert len(read.faults) == 1


@pytest.mark.parametrize("environ", [{}, {"MODEL": ""}])
def test_a_required_variable_that_is_not_set_is_a_fault(environ: dict[str, str]) -> None:
    read = EnvironReader(environ)
    assert read.required("MODEL", parse.line) == ""
    assert read.faults == ["MODEL is not set"]
