"""Bound what an engine compiles: JSON schemas, regular expressions, grammars, choices and structural tags.

vLLM compiles them in its one API server and in the engine's core. The cost grows with size, nesting and repetition, not
with the request's bytes: a pattern of thirty characters can stand for a billion states, and a schema that refers to
nothing but itself has no end. What is malformed is refused here too, because such a value has ended engines before.

Rules kept here:

* a `$ref` points into its own schema, at something, and not back to itself without a step in between;
* `type` is one of JSON's types, in any case, or an alias that clients write for them;
* a pattern's brackets are closed, and its counts of repetition bounded, multiplied where they are nested;
* data in a schema (`const`, `enum`, `default`, `examples`) is not read as one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import orjson

from node_agent.contract.errors import RequestRejected
from node_agent.core.policy.bounds import RequestBounds, too_much
from node_agent.core.policy.regex import pattern_defect

_TYPES = frozenset(
    {
        "string", "number", "integer", "boolean", "array", "object", "null",
        "any", "int", "float", "str", "bool", "list", "dict", "tuple", "none",
    }
)  # fmt: skip
_JSON_TYPES = frozenset({b"string", b"number", b"integer", b"boolean", b"array", b"object", b"null"})
_DATA_KEYS = frozenset({"const", "enum", "default", "examples", "example"})
_LENGTHS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
_WITHOUT_STEP = ("allOf", "anyOf", "oneOf")
_MAX_DIGITS = 8
_TEXT_GRAMMARS = ("grammar", "structural_tag")


def check_schema(schema: Any, param: str, bounds: RequestBounds) -> None:
    """Check a JSON schema, as an object or as its text. Raises RequestRejected (400); `param` is its place."""
    if isinstance(schema, str):
        _check_bytes(len(schema.encode("utf-8", "replace")), param, bounds)
        try:
            schema = orjson.loads(schema)
        except ValueError:
            _refuse("is not JSON", param)
    if not isinstance(schema, (dict, list)) or _is_plain(schema, param, bounds):
        return
    _check_size(schema, param, bounds)
    references = []
    for node in _schemas(schema):
        _check_node(node, param, bounds)
        if isinstance(node.get("$ref"), str):
            references.append(node)
    if references:
        _check_references(references, schema, param)


_TO_EXAMINE = re.compile(rb'"(?:\$ref|pattern|type":\[|(?:min|max)(?:Length|Items|Properties))')
_TYPE = re.compile(rb'"type":"([^"]{0,64})')


def _is_plain(schema: Any, param: str, bounds: RequestBounds) -> bool:
    """Return whether a schema needs no walk: the JSON that it is written as shows that it has nothing to examine.

    Most parameters of tools are such. The text is written here, so a name has one spelling in it. Raises
    RequestRejected (400) where it is too large.
    """
    try:
        raw = orjson.dumps(schema)
    except orjson.JSONEncodeError:
        return False
    _check_bytes(len(raw), param, bounds)
    return (
        raw.count(b"{") + raw.count(b"[") <= bounds.max_schema_depth
        and _TO_EXAMINE.search(raw) is None
        and _JSON_TYPES.issuperset(_TYPE.findall(raw))
    )


def _check_size(value: Any, param: str, bounds: RequestBounds) -> None:
    """Check the bytes of a JSON value, and its levels."""
    limit = bounds.max_schema_depth
    level, found = [value], 0
    while level:
        inner: list[Any] = []
        for each in level:
            inner += each.values() if isinstance(each, dict) else each
        level = [each for each in inner if isinstance(each, (dict, list))]
        found += 1
        if found > limit:
            raise too_much("levels in a schema", f"more than {limit}", "max_schema_depth", limit, param)
    try:
        size = len(orjson.dumps(value))
    except orjson.JSONEncodeError:
        _refuse("is not standard JSON", param)
    _check_bytes(size, param, bounds)


def _check_bytes(size: int, param: str, bounds: RequestBounds) -> None:
    if size > bounds.max_grammar_bytes:
        raise too_much("bytes in a schema or grammar", size, "max_grammar_bytes", bounds.max_grammar_bytes, param)


def _schemas(root: Any) -> Iterator[dict[str, Any]]:
    """Yield every object of a schema that may be one itself; of data only the outermost level is left out."""
    pending = [root]
    while pending:
        each = pending.pop()
        if isinstance(each, list):
            pending += [inner for inner in each if isinstance(inner, (dict, list))]
        else:
            yield each
            pending += [
                inner for name, inner in each.items() if isinstance(inner, (dict, list)) and name not in _DATA_KEYS
            ]


def _check_node(node: Mapping[str, Any], param: str, bounds: RequestBounds) -> None:
    kinds = node.get("type")
    for kind in kinds if isinstance(kinds, list) else [kinds]:
        if isinstance(kind, str) and kind.lower() not in _TYPES:
            _refuse(f"has the type {kind[:100]!r}, which JSON does not have", param)
    if isinstance(node.get("pattern"), str):
        check_regex(node["pattern"], param, bounds)
    for name in _LENGTHS:
        length = node.get(name)
        if isinstance(length, (int, float)) and length > bounds.max_repetitions:
            raise too_much(f"as {name}", length, "max_repetitions", bounds.max_repetitions, param)


def _check_references(references: list[dict[str, Any]], root: Any, param: str) -> None:
    """Check that each reference leads to a schema, and not back to itself without a step into a property or an item.

    Raises RequestRejected (400). It is a depth-first search over all of them together, which visits each schema once.
    """
    finished: set[int] = set()
    for first in references:
        path, entered = [(first, iter(_same_place(first, root, param)))], {id(first)}
        while path:
            node, following = path[-1]
            target = next((each for each in following if id(each) not in finished), None)
            if target is None:
                path.pop()
                entered.discard(id(node))
                finished.add(id(node))
            elif id(target) in entered:
                _refuse("refers to itself without an end ($ref)", param)
            else:
                entered.add(id(target))
                path.append((target, iter(_same_place(target, root, param))))


def _same_place(node: dict[str, Any], root: Any, param: str) -> list[dict[str, Any]]:
    """Return the schemas that hold for the same value as this one: what it refers to, and its alternatives."""
    targets = [_target(node["$ref"], root, param)] if isinstance(node.get("$ref"), str) else []
    for name in _WITHOUT_STEP:
        inner = node.get(name)
        targets += inner if isinstance(inner, list) else ()
    return [target for target in targets if isinstance(target, dict)]


def _target(reference: str, root: Any, param: str) -> Any:
    """Return the schema that a reference points to (RFC 6901). Raises RequestRejected where there is none."""
    if reference[:1] != "#":
        _refuse(f"refers to another document ({reference[:100]!r})", param)
    at = root
    for part in reference[1:].split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(at, list) and name.isdigit() and len(name) <= _MAX_DIGITS and int(name) < len(at):
            at = at[int(name)]
        elif isinstance(at, dict) and name in at:
            at = at[name]
        else:
            _refuse(f"refers to nothing ({reference[:100]!r})", param)
    return at


def check_regex(pattern: str, param: str, bounds: RequestBounds) -> None:
    """Check a regular expression. Raises RequestRejected (400)."""
    if len(pattern) > bounds.max_regex_chars:
        raise too_much("characters in a regex", len(pattern), "max_regex_chars", bounds.max_regex_chars, param)
    defect, repetitions = pattern_defect(pattern)
    if defect is not None:
        _refuse(f"has a regular expression that {defect}", param)
    if repetitions > bounds.max_repetitions:
        raise too_much("repetitions in a regex", repetitions, "max_repetitions", bounds.max_repetitions, param)


_OPEN_TEXT = re.compile(r'"(?:[^"\\]|\\.)*"')


def check_constraint(value: Any, param: str, bounds: RequestBounds) -> None:
    """Check vLLM's `structured_outputs`. Raises RequestRejected (400)."""
    if not isinstance(value, dict):
        return
    if value.get("json") is not None:
        check_schema(value["json"], f"{param}.json", bounds)
    for name in ("regex", "whitespace_pattern"):
        if isinstance(value.get(name), str):
            check_regex(value[name], f"{param}.{name}", bounds)
    for name in _TEXT_GRAMMARS:
        text = value.get(name)
        if isinstance(text, str):
            _check_bytes(len(text.encode("utf-8", "replace")), f"{param}.{name}", bounds)
            _check_text_depth(text, f"{param}.{name}", bounds)
    tag = value.get("structural_tag")
    if isinstance(tag, str):
        try:
            tag = orjson.loads(tag)
        except ValueError:
            _refuse("is not JSON", f"{param}.structural_tag")
    _check_tag(tag, f"{param}.structural_tag", bounds)
    if isinstance(value.get("choice"), list):
        _check_size(value["choice"], f"{param}.choice", bounds)


def _check_text_depth(text: str, param: str, bounds: RequestBounds) -> None:
    """Check the levels of brackets in a grammar or a structural tag, outside of its quoted texts."""
    depth = deepest = 0
    for char in _OPEN_TEXT.sub("", text):
        if char in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif char in ")]}":
            depth -= 1
    if deepest > bounds.max_schema_depth:
        raise too_much("levels in a grammar", deepest, "max_schema_depth", bounds.max_schema_depth, param)


def check_format(value: Any, param: str, bounds: RequestBounds) -> None:
    """Check a response's format: OpenAI's `response_format` or `text.format`, Anthropic's `output_config.format`.

    Raises RequestRejected (400).
    """
    if not isinstance(value, dict):
        return
    wrapped = value.get("json_schema")
    for holder, place in ((value, param), (wrapped, f"{param}.json_schema")):
        if isinstance(holder, dict) and holder.get("schema") is not None:
            check_schema(holder["schema"], f"{place}.schema", bounds)
    if value.get("type") == "structural_tag":
        _check_tag({name: inner for name, inner in value.items() if name != "type"}, param, bounds)


def _check_tag(tag: Any, param: str, bounds: RequestBounds) -> None:
    """Check a structural tag, with the schemas and patterns at any place of it. Raises RequestRejected (400)."""
    if not isinstance(tag, (dict, list)):
        return
    _check_size(tag, param, bounds)
    for node in _schemas(tag):
        for name in ("schema", "json_schema"):
            if node.get(name) is not None:
                check_schema(node[name], f"{param}.{name}", bounds)
        if isinstance(node.get("pattern"), str):
            check_regex(node["pattern"], f"{param}.pattern", bounds)


_HOLDERS = ("function", "custom")
_SCHEMAS = ("parameters", "input_schema", "format")


def check_tools(tools: Any, param: str, bounds: RequestBounds) -> None:
    """Check the schemas of tools, those of a namespace included. Raises RequestRejected (400)."""
    pending = list(tools) if isinstance(tools, list) else []
    while pending:
        tool = pending.pop()
        if not isinstance(tool, dict):
            continue
        if isinstance(tool.get("tools"), list):
            pending += tool["tools"]
            if len(pending) > bounds.max_tools:
                raise too_much("tools", len(pending), "max_tools", bounds.max_tools, param)
        for holder in (tool, *(tool.get(name) for name in _HOLDERS)):
            if not isinstance(holder, dict):
                continue
            for name in _SCHEMAS:
                if isinstance(holder.get(name), (dict, str)):
                    check_schema(holder[name], f"{param}.{name}", bounds)


def _refuse(message: str, param: str) -> NoReturn:
    raise RequestRejected(400, "invalid_schema", f"{param[:200]} {message}.", param[:200])
