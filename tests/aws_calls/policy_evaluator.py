"""Evaluates IAM policies: whether the identity-based policies of a role allow a request.

Rules, from the IAM User Guide ("Policy evaluation logic", "Condition operators", "Creating a condition with multiple
keys or values", "Variables"); test_policy_evaluator.py has its examples:

* an explicit Deny has precedence over any Allow; without an Allow a request is denied;
* all operators and keys of a statement's condition have to match; one of a key's values has to;
* a key that the request lacks matches nothing: a positive operator is false then, a negated one true. With ...IfExists
  and with ForAllValues it is true, with ForAnyValue false;
* a variable whose key the request lacks matches nothing.

Only what policies here have, and what those examples need, is implemented. An unknown element or operator is an error,
so that a policy with one is not passed by mistake.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import ip_address, ip_network
from typing import Any

ContextValue = str | tuple[str, ...]
_VARIABLE = re.compile(r"\$\{([^}]*)\}")
_LITERALS = {"*": "[*]", "?": "[?]", "$": "$"}
_ELEMENTS = frozenset({"Sid", "Effect", "Action", "NotAction", "Resource", "NotResource", "Condition"})


@dataclass(frozen=True)
class Request:
    """One action on one resource. context: condition keys; a tuple is a key with several values."""

    action: str
    resource: str
    context: Mapping[str, ContextValue] = field(default_factory=dict)

    def values(self, key: str) -> tuple[str, ...] | None:
        """Return the key's values, whatever the case of its name; None where the request lacks it."""
        for name, value in self.context.items():
            if name.lower() == key.lower():
                return (value,) if isinstance(value, str) else value
        return None


@dataclass(frozen=True)
class Decision:
    """sid: of the statement that decided; empty where none matched."""

    is_allowed: bool
    sid: str = ""


def evaluate(statements: Iterable[Mapping[str, Any]], request: Request) -> Decision:
    """Decide by all statements of a role's policies. Raises ValueError for what is not implemented."""
    matching = [each for each in statements if _matches(each, request)]
    for effect in ("Deny", "Allow"):
        for each in matching:
            if each["Effect"] == effect:
                return Decision(effect == "Allow", str(each.get("Sid", "")))
    return Decision(is_allowed=False)


def _matches(statement: Mapping[str, Any], request: Request) -> bool:
    if unknown := set(statement) - _ELEMENTS:
        raise ValueError(f"elements {sorted(unknown)} are not implemented")
    if statement["Effect"] not in ("Allow", "Deny"):
        raise ValueError(f"effect {statement['Effect']!r}")
    return (
        _element(statement, "Action", lambda pattern: _like(pattern.lower(), request.action.lower()))
        and _element(statement, "Resource", lambda pattern: _like_with_variables(pattern, request.resource, request))
        and all(
            _condition(operator, key, _listed(wanted), request)
            for operator, block in statement.get("Condition", {}).items()
            for key, wanted in block.items()
        )
    )


def _element(statement: Mapping[str, Any], name: str, matches: Callable[[str], bool]) -> bool:
    if name in statement:
        return any(map(matches, _listed(statement[name])))
    return not any(map(matches, _listed(statement[f"Not{name}"])))


def _listed(value: Any) -> list[str]:
    return [str(each).lower() if isinstance(each, bool) else str(each) for each in _as_sequence(value)]


def _as_sequence(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else (value,)


def _like(pattern: str, text: str) -> bool:
    """Compare with wildcards: * any characters, ? one. [*] and [?] are these characters themselves."""
    pieces = re.split(r"(\[\*\]|\[\?\]|\*|\?)", pattern)
    regex = {"*": ".*", "?": ".", "[*]": r"\*", "[?]": r"\?"}
    return re.fullmatch("".join(regex.get(each) or re.escape(each) for each in pieces), text, re.DOTALL) is not None


def _with_variables(text: str, request: Request) -> str | None:
    """Replace the variables; None where the request lacks the key of one."""
    missing = False

    def value(match: re.Match[str]) -> str:
        nonlocal missing
        name, _, default = match[1].partition(",")
        if name in _LITERALS:
            return _LITERALS[name]
        found = request.values(name.strip())
        if found is not None and len(found) == 1:
            return found[0]
        if default:
            return default.strip().strip("'")
        missing = True
        return ""

    replaced = _VARIABLE.sub(value, text)
    return None if missing else replaced


def _like_with_variables(pattern: str, text: str, request: Request) -> bool:
    replaced = _with_variables(pattern, request)
    return replaced is not None and _like(replaced, text)


def _arn_like(pattern: str, text: str) -> bool:
    """Compare each of an ARN's six parts with wildcards; both have to be ARNs."""
    patterns, parts = pattern.split(":", 5), text.split(":", 5)
    return len(patterns) == len(parts) == 6 and all(map(_like, patterns, parts))


def _in_network(wanted: str, text: str) -> bool:
    network, address = ip_network(wanted, strict=False), ip_address(text)
    return network.version == address.version and address in network


def _instant(text: str) -> float:
    return float(text) if text.isdigit() else datetime.fromisoformat(text).timestamp()


_STRINGS: dict[str, Callable[[str, str], bool]] = {
    "StringEquals": lambda wanted, given: wanted == given,
    "StringEqualsIgnoreCase": lambda wanted, given: wanted.lower() == given.lower(),
    "StringLike": _like,
    "ArnEquals": _arn_like,
    "ArnLike": _arn_like,
}
"""Operators whose values may have variables."""

_OPERATORS: dict[str, Callable[[str, str], bool]] = {
    **_STRINGS,
    "Bool": lambda wanted, given: wanted.lower() == given.lower(),
    "NumericEquals": lambda wanted, given: float(given) == float(wanted),
    "NumericLessThan": lambda wanted, given: float(given) < float(wanted),
    "NumericLessThanEquals": lambda wanted, given: float(given) <= float(wanted),
    "NumericGreaterThan": lambda wanted, given: float(given) > float(wanted),
    "NumericGreaterThanEquals": lambda wanted, given: float(given) >= float(wanted),
    "DateLessThan": lambda wanted, given: _instant(given) < _instant(wanted),
    "DateGreaterThan": lambda wanted, given: _instant(given) > _instant(wanted),
    "IpAddress": _in_network,
}
"""By name: whether a value of the policy matches one of the request."""

_NEGATED = {
    "StringNotEquals": "StringEquals",
    "StringNotEqualsIgnoreCase": "StringEqualsIgnoreCase",
    "StringNotLike": "StringLike",
    "ArnNotEquals": "ArnEquals",
    "ArnNotLike": "ArnLike",
    "NumericNotEquals": "NumericEquals",
    "NotIpAddress": "IpAddress",
}


def _condition(operator: str, key: str, wanted: list[str], request: Request) -> bool:
    """Evaluate one key of one operator. Raises ValueError for an unknown operator."""
    given = request.values(key)
    if operator == "Null":
        return any((each == "true") == (not given) for each in wanted)
    qualifier, _, name = operator.rpartition(":")
    base = name.removesuffix("IfExists")
    is_negated = base in _NEGATED
    compare = _OPERATORS.get(_NEGATED.get(base, base))
    if compare is None or qualifier not in ("", "ForAllValues", "ForAnyValue"):
        raise ValueError(f"the operator {operator} is not implemented")
    if base in _STRINGS or _NEGATED.get(base) in _STRINGS:
        values = [each for text in wanted if (each := _with_variables(text, request)) is not None]
    else:
        values = wanted

    def holds(value: str) -> bool:
        return any(compare(each, value) for each in values) != is_negated

    if qualifier == "ForAllValues":
        return all(map(holds, given or ()))
    if qualifier == "ForAnyValue":
        return any(map(holds, given or ()))
    if given is None:
        return is_negated or name != base
    if len(given) != 1:
        raise ValueError(f"{key} has several values, and {operator} compares one")
    return holds(given[0])
