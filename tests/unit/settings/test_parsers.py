"""The parsers of settings: a table of values, and of texts that each one refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.core.replication.replicated_log import MAX_REPLICAS
from node_agent.settings import parsers as parse

YEAR = str(366 * 24 * 3600)

ACCEPTED: list[tuple[Callable[[str], Any], str, Any]] = [
    (parse.cluster, "blue-2", "blue-2"),
    (parse.line, "/var/lib/über", "/var/lib/über"),
    (parse.line, "x" * 4_096, "x" * 4_096),
    (parse.model_name, "m" * 128, "m" * 128),
    (parse.log_level, "DEBUG", "DEBUG"),
    (parse.log_format, "json", "json"),
    (parse.durability, "none", "none"),
    (parse.port, "65535", 65535),
    (parse.port, "0008000", 8000),
    (parse.host, "localhost", "localhost"),
    (parse.node_address, "", None),
    (parse.node_address, "10.0.0.1:8001", "10.0.0.1:8001"),
    (parse.endpoint, "http://169.254.169.254", "http://169.254.169.254"),
    (parse.endpoint, "http://[fd00:ec2::254]:80/", "http://[fd00:ec2::254]:80/"),
    (parse.positive_seconds, YEAR, float(YEAR)),
    (parse.positive_seconds, "1e-3", 0.001),
    (parse.seconds, "0", 0.0),
    (parse.size, "0", 0),
    (parse.count, "1", 1),
    (parse.replicas, str(MAX_REPLICAS - 1), MAX_REPLICAS - 1),
    (parse.arguments, "[]", ()),
    (parse.arguments, '["--max-model-len", "8192"]', ("--max-model-len", "8192")),
    (parse.command, '["vllm"]', ("vllm",)),
    (parse.origins, "*", ("*",)),
    (parse.origins, " https://a.example , ,https://b.example", ("https://a.example", "https://b.example")),
]

REFUSED: list[tuple[Callable[[str], Any], str]] = [
    (parse.cluster, "Blue"),
    (parse.line, "two\nlines"),
    (parse.line, "x" * 4_097),
    (parse.model_name, "ü" * 65),
    (parse.log_level, "debug"),
    (parse.log_format, "JSON"),
    (parse.durability, ""),
    (parse.port, "0"),
    (parse.port, "65536"),
    (parse.port, "+80"),
    (parse.host, "-a"),
    (parse.host, "::1"),
    (parse.node_address, "node-1:8001"),
    (parse.endpoint, "https://127.0.0.1"),
    (parse.endpoint, "http://127.0.0.1/path"),
    (parse.endpoint, "http://127.0.0.1:0"),
    (parse.endpoint, "http://[::x]"),
    (parse.positive_seconds, "0"),
    (parse.positive_seconds, YEAR + "1"),
    (parse.seconds, "-0.1"),
    (parse.seconds, "nan"),
    (parse.size, "-1"),
    (parse.size, "1.0"),
    (parse.count, "0"),
    (parse.replicas, "0"),
    (parse.replicas, str(MAX_REPLICAS)),
    (parse.arguments, '{"a": 1}'),
    (parse.arguments, '["a", 1]'),
    (parse.command, "[]"),
    (parse.origins, "https://a.example/path"),
]

PARSERS = sorted({parser for parser, _, _ in ACCEPTED}, key=lambda parser: parser.__name__)


def name_of(value: Any) -> str:
    return value.__name__ if callable(value) else str(value)[:20]


@pytest.mark.parametrize(("parser", "text", "value"), ACCEPTED, ids=name_of)
def test_a_text_is_parsed_into_its_value(parser: Callable[[str], Any], text: str, value: Any) -> None:
    assert parser(text) == value


@pytest.mark.parametrize(("parser", "text"), REFUSED, ids=name_of)
def test_a_wrong_text_is_refused_with_what_is_allowed(parser: Callable[[str], Any], text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parser(text)


@pytest.mark.parametrize("parser", PARSERS, ids=name_of)
@given(text=st.text(max_size=60))
def test_any_text_is_parsed_or_refused(parser: Callable[[str], Any], text: str) -> None:
    try:
        parser(text)
    except (ValueError, RecursionError):
        return
