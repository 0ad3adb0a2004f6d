"""Finds the calls of AWS in the source, so that a call that is added later is tested without a list of calls.

A call is an attribute of a client's name (`self._client.describe_instances(...)`), or a text that names an operation in
a module that uses paginators (`get_paginator("list_objects_v2")`). An attribute is a client's operation where the
service's model has one of this name, and the source does not define a function of that name itself, or where its
receiver is named as clients are here.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import botocore.session
from botocore import xform_name

from tests.aws_calls.recording import ROOT

CLIENTS = frozenset({"client", "s3", "ec2", "ssm", "iam", "table", "dynamodb"})
"""The names of clients and tables, without a leading underscore; a call of `account.client(...)` is one, too."""

_UPLOAD = ("PutObject", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload", "AbortMultipartUpload")
TRANSFERS: Mapping[str, tuple[str, ...]] = {
    "upload_file": _UPLOAD,
    "upload_fileobj": _UPLOAD,
    "download_file": ("HeadObject", "GetObject"),
    "download_fileobj": ("HeadObject", "GetObject"),
}
"""boto3's own methods of an S3 client: the operations that they use."""


@dataclass(frozen=True, order=True)
class Site:
    """A call in the source.

    function: the outermost function or method around it; operations: botocore's names, several for a transfer.
    """

    module: str
    line: int
    function: str
    method: str
    operations: tuple[str, ...]


@cache
def operation_names(service: str) -> tuple[str, ...]:
    """Return a service's operations."""
    return tuple(botocore.session.get_session().get_service_model(service).operation_names)


@cache
def operations(services: tuple[str, ...]) -> dict[str, str]:
    """Return the operations' names by the names of the clients' methods, of all these services."""
    return {xform_name(name): name for service in services for name in operation_names(service)}


def sites(folder: str, services: Sequence[str]) -> tuple[Site, ...]:
    """Return the calls in a folder of the source. services: that its clients are of."""
    files = [path for path in sorted((ROOT / folder).rglob("*.py")) if "engine_plugin" not in path.parts]
    trees = {str(path.relative_to(ROOT)): ast.parse(path.read_text()) for path in files}
    own = {node.name for tree in trees.values() for node in ast.walk(tree) if isinstance(node, _FUNCTIONS)}
    known = operations(tuple(services))
    return tuple(sorted(site for name, tree in trees.items() for site in _sites(name, tree, known, own)))


_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def _sites(module: str, tree: ast.Module, known: Mapping[str, str], own: set[str]) -> Iterator[Site]:
    has_paginators = any(isinstance(node, ast.Attribute) and node.attr == "get_paginator" for node in ast.walk(tree))
    for function, node in _nodes(tree, ""):
        if isinstance(node, ast.Constant) and has_paginators and node.value in known:
            yield Site(module, node.lineno, function, str(node.value), (known[str(node.value)],))
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        method, is_client = node.func.attr, _is_client(node.func.value)
        if is_client and method in TRANSFERS:
            yield Site(module, node.lineno, function, method, TRANSFERS[method])
        elif method in known and (is_client or method not in own):
            yield Site(module, node.lineno, function, method, (known[method],))


def _nodes(parent: ast.AST, function: str) -> Iterator[tuple[str, ast.AST]]:
    """Yield every node with the qualified name of the outermost function around it."""
    for node in ast.iter_child_nodes(parent):
        inner = function
        if isinstance(node, (*_FUNCTIONS, ast.ClassDef)) and (not function or function.endswith(".")):
            inner = f"{function}{node.name}" + ("." if isinstance(node, ast.ClassDef) else "")
        yield inner.strip("."), node
        yield from _nodes(node, inner)


def _is_client(receiver: ast.expr) -> bool:
    match receiver:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name.strip("_") in CLIENTS
        case ast.Call(func=ast.Attribute(attr="client") | ast.Name(id="aws_client")):
            return True
    return False


def services_of(folder: str) -> set[str]:
    """Return the services of which a folder's source makes clients or resources."""
    found = set()
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and _makes_client(node.func) and node.args:
                first = node.args[0]
                if isinstance(first, ast.Constant) and isinstance(first.value, str):
                    found.add(first.value)
    return found


def _makes_client(func: ast.expr) -> bool:
    names = {"client", "resource", "aws_client"}
    return (isinstance(func, ast.Attribute) and func.attr in names) or (isinstance(func, ast.Name) and func.id in names)
