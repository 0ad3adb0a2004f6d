"""Schemas, regular expressions and grammars: what is usual passes, what has no end or no sense does not."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.contract.errors import RequestRejected
from node_agent.core.policy.bounds import RequestBounds
from node_agent.core.policy.grammars import check_constraint, check_format, check_regex, check_schema, check_tools
from node_agent.core.policy.regex import pattern_defect

BOUNDS = RequestBounds()
TREE = {
    "$defs": {
        "node": {"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}}}
    },
    "$ref": "#/$defs/node",
}
USUAL: tuple[Any, ...] = (
    TREE,
    {"type": "object", "properties": {"child": {"$ref": "#"}}},
    {"type": "array", "items": {"$ref": "#"}},
    {"type": ["string", "null"], "pattern": r"^\d{3}-[a-z]+(?:x|y)?$", "maxLength": 20},
    {"enum": ["a", 1, None], "const": {"type": "any words"}, "default": {"$ref": "nowhere", "pattern": "("}},
    {"properties": {"type": {"type": "string"}, "$ref": {"type": "string"}, "pattern": {"type": "string"}}},
    {"anyOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/a"}], "$defs": {"a": {"type": "integer"}}},
    {"$defs": {"a/b": {"~": [True, {"type": "null"}]}}, "$ref": "#/$defs/a~1b/~0/1"},
    {"type": "STRING"},
    '{"type": "string"}',
    {},
    True,
)
MALFORMED: tuple[tuple[Any, str], ...] = (
    ({"$ref": "#"}, "itself"),
    ({"allOf": [{"$ref": "#"}]}, "itself"),
    ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"anyOf": [{"$ref": "#/$defs/a"}]}}}, "itself"),
    ({"properties": {"a": {"$ref": "#/properties/a"}}}, "itself"),
    ({"$ref": "#/$defs/none"}, "refers to nothing"),
    ({"$ref": "#/items/5", "items": []}, "refers to nothing"),
    ({"$ref": "https://example.com/schema"}, "another document"),
    ({"type": "something"}, "type 'something'"),
    ({"items": {"type": ["string", "x"]}}, "type 'x'"),
    ({"pattern": "("}, "open ("),
    ("{", "is not JSON"),
    ({"enum": ["\ud800"]}, "standard JSON"),
)
BEYOND: tuple[tuple[Any, str], ...] = (
    ({"maxLength": 10**9}, "SYNKTI_MAX_REPETITIONS"),
    ({"minItems": 1e30}, "SYNKTI_MAX_REPETITIONS"),
    ({"pattern": "a{99999}"}, "SYNKTI_MAX_REPETITIONS"),
    ({"pattern": "a" * 5_000}, "SYNKTI_MAX_REGEX_CHARS"),
    ({"enum": ["a" * 70_000]}, "SYNKTI_MAX_GRAMMAR_BYTES"),
    ('"' + "a" * 70_000 + '"', "SYNKTI_MAX_GRAMMAR_BYTES"),
)


@pytest.mark.parametrize("schema", USUAL, ids=str)
def test_a_usual_schema_passes(schema: object) -> None:
    check_schema(schema, "p", BOUNDS)


@pytest.mark.parametrize(("schema", "expected"), [*MALFORMED, *BEYOND], ids=lambda value: str(value)[:60])
def test_a_schema_without_end_or_sense_is_refused(schema: object, expected: str) -> None:
    with pytest.raises(RequestRejected) as refused:
        check_schema(schema, "p", BOUNDS)
    assert expected in str(refused.value)
    assert (refused.value.status, refused.value.param) == (400, "p")


def test_a_schema_that_looks_plain_is_one() -> None:
    """A name in an escaped spelling is the same name, and words in a text are none."""
    plain = {"type": "object", "properties": {"a": {"type": "string", "description": '"pattern":"(" "$ref":"#"'}}}
    check_schema(plain, "p", BOUNDS)
    for text in ('{"p\\u0061ttern": "("}', '{"\\u0024ref": "#"}', '{"t\\u0079pe": "something"}', '{"type": ["x"]}'):
        with pytest.raises(RequestRejected):
            check_schema(orjson.loads(text), "p", BOUNDS)


def test_many_references_are_followed_once_each() -> None:
    """Each of 2,000 definitions refers to the next two: the paths are more than the atoms, the schemas are not."""
    count = 2_000
    ref = [{"$ref": f"#/$defs/{n}"} for n in range(count + 2)]
    definitions = {str(n): {"anyOf": [ref[n + 1], ref[n + 2]]} for n in range(count)}
    ends = {str(count): {"type": "null"}, str(count + 1): {"type": "null"}}
    check_schema({"$ref": "#/$defs/0", "$defs": {**definitions, **ends}}, "p", RequestBounds(max_grammar_bytes=10**6))


@pytest.mark.parametrize(
    ("pattern", "repetitions"),
    [
        ("", 1),
        ("abc", 1),
        (r"^\d+$.", 1),
        ("(a{1,3}b){2,5}", 15),
        ("((a{10}){10}){10}|b{7}", 1_000),
        ("a{,5}", 5),
        ("[]a]", 1),
        ("[^]]*", 1),
        ("[a[b]", 1),
        (r"\(", 1),
        ("(?:a|b)*?", 1),
        ("(?P<x>a)(?P=x)", 1),
        ("a{", 1),
        ("{", 1),
        ("^{}$", 1),
        ("{,}", 1),
        ("a{2,}", 2),
        ("a{0}", 1),
        ("(?i)a++", 1),
        ("(?<=a)b", 1),
        ("[[:alpha:]]", 1),
        ("a{9999999999999999999}", 999999999999),
    ],
)
def test_repetitions_are_multiplied_where_they_are_nested(pattern: str, repetitions: int) -> None:
    assert pattern_defect(pattern) == (None, repetitions)


@pytest.mark.parametrize(
    "pattern",
    ["(", ")", "a(b", "[", "[^", "[a", "\\", "*", "a|+", "(?:*)", "^?", "a{3,1}", "a\0", "(" * 70 + ")" * 70],
)
def test_a_malformed_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(RequestRejected):
        check_regex(pattern, "p", BOUNDS)


@given(st.text(alphabet="ab()[]{}*+?|^$\\,0123456789<>:=!P", max_size=60))
def test_any_pattern_has_an_outline(pattern: str) -> None:
    defect, repetitions = pattern_defect(pattern)
    assert (defect is None) == (repetitions > 0)


@pytest.mark.parametrize(
    "constraint",
    [
        {"json": {"$ref": "#"}},
        {"json": "{"},
        {"regex": "("},
        {"whitespace_pattern": "("},
        {"grammar": "root ::= " + "(" * 100 + ")" * 100},
        {"grammar": "a" * 70_000},
        {"choice": ["a" * 70_000]},
        {"structural_tag": "{"},
        {"structural_tag": '{"format": {"type": "json_schema", "json_schema": {"$ref": "#"}}}'},
        {"structural_tag": '{"format": {"type": "regex", "pattern": "("}}'},
    ],
    ids=lambda value: str(value)[:60],
)
def test_each_kind_of_constraint_is_checked(constraint: dict[str, Any]) -> None:
    with pytest.raises(RequestRejected):
        check_constraint(constraint, "structured_outputs", BOUNDS)


@pytest.mark.parametrize(
    "constraint",
    [
        None,
        "x",
        [],
        {},
        {"json": None},
        {"json": TREE},
        {"regex": "a+"},
        {"choice": ["a", "b"]},
        {"json_object": True},
        {"grammar": 'root ::= ("a" | "((((") [0-9]*'},
        {"structural_tag": '{"format": {"type": "any_text"}}'},
    ],
    ids=str,
)
def test_usual_constraints_pass(constraint: object) -> None:
    check_constraint(constraint, "structured_outputs", BOUNDS)


@pytest.mark.parametrize(
    "value",
    [
        {"type": "json_schema", "json_schema": {"name": "a", "schema": {"$ref": "#"}}},
        {"type": "json_schema", "schema": {"$ref": "#"}},
        {
            "type": "structural_tag",
            "structures": [{"begin": "<", "schema": {"$ref": "#"}, "end": ">"}],
            "triggers": ["<"],
        },
        {"type": "structural_tag", "format": {"elements": [{"json_schema": {"$ref": "#"}}]}},
    ],
    ids=str,
)
def test_each_form_of_a_response_format_is_checked(value: dict[str, Any]) -> None:
    with pytest.raises(RequestRejected):
        check_format(value, "response_format", BOUNDS)


def test_usual_response_formats_pass() -> None:
    for value in (None, "text", {"type": "text"}, {"type": "json_object"}, {"type": "json_schema", "json_schema": {}}):
        check_format(value, "response_format", BOUNDS)
    check_format({"type": "json_schema", "json_schema": {"name": "a", "schema": TREE}}, "response_format", BOUNDS)


@pytest.mark.parametrize(
    "tool",
    [
        {"type": "function", "function": {"name": "f", "parameters": {"$ref": "#"}}},
        {"type": "function", "name": "f", "parameters": {"$ref": "#"}},
        {"name": "f", "input_schema": {"$ref": "#"}},
        {"type": "namespace", "name": "n", "tools": [{"type": "function", "name": "f", "parameters": {"$ref": "#"}}]},
        {"type": "namespace", "name": "n", "tools": [{}] * 200},
    ],
    ids=lambda value: str(value)[:70],
)
def test_each_form_of_a_tool_is_checked(tool: dict[str, Any]) -> None:
    with pytest.raises(RequestRejected):
        check_tools([tool], "tools", BOUNDS)


def test_usual_tools_pass() -> None:
    check_tools([{"type": "function", "function": {"name": "f", "parameters": TREE}}, {}, None, "x"], "tools", BOUNDS)
    check_tools("x", "tools", BOUNDS)
