"""Records boto3's calls: parameters are validated by botocore's models, and answers are made from them.

No call leaves this process. An answer has every member of the operation's output once, so that an adapter reads each of
them; a test sets another answer, or an error, where the adapter decides by it.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from traceback import walk_stack
from types import SimpleNamespace
from typing import Any

import botocore.session
import pytest
from botocore.loaders import create_loader
from botocore.model import ListShape, MapShape, OperationModel, Shape, StringShape, StructureShape
from botocore.response import StreamingBody
from botocore.validate import ParamValidator

ROOT = Path(__file__).parents[2]
SOURCES = tuple(str(ROOT / folder) for folder in ("node_agent", "lambdas", "cli"))
_TOKENS = ("nexttoken", "marker", "continuationtoken", "lastevaluatedkey")
_DEPTH = 6
_LOADER = create_loader()
Answer = Mapping[str, Any] | Callable[[Mapping[str, Any]], Mapping[str, Any]]


@dataclass(frozen=True)
class Call:
    """One call.

    service, operation: botocore's names; module, function: where the source calls, below the repository's root, and
    empty where a library called, in a thread or on its own account; faults: of botocore's validation.
    """

    service: str
    operation: str
    module: str
    params: Mapping[str, Any]
    faults: str = ""
    function: str = ""


@dataclass
class Recorder:
    """answers, errors: by operation's name; an error's code is the answer's."""

    calls: list[Call] = field(default_factory=list)
    answers: dict[str, Answer] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def answering(self, **answers: Answer) -> Iterator[None]:
        """Answer these operations so for the block."""
        before = dict(self.answers)
        self.answers |= answers
        try:
            yield
        finally:
            self.answers = before

    @contextmanager
    def refusing(self, **errors: str) -> Iterator[None]:
        """Refuse these operations with a code for the block."""
        before = dict(self.errors)
        self.errors |= errors
        try:
            yield
        finally:
            self.errors = before

    def watch(self, client: Any) -> None:
        """Record a client's calls, and answer them."""
        events, service = client.meta.events, client.meta.service_model.service_name
        given: dict[str, Mapping[str, Any]] = {}

        def record(params: dict[str, Any], model: OperationModel, **_: Any) -> None:
            given[model.name] = params
            report = ParamValidator().validate(params, model.input_shape) if model.input_shape else None
            faults = report.generate_report() if report is not None else ""
            module, function = _caller()
            self.calls.append(Call(service, model.name, module, dict(params), faults, function))

        def answer(model: OperationModel, **_: Any) -> tuple[Any, Mapping[str, Any]]:
            code = self.errors.get(model.name)
            if code is not None:
                meta = {"HTTPStatusCode": 400, "RequestId": "r", "HTTPHeaders": {}, "RetryAttempts": 0}
                refusal = {"Error": {"Code": code, "Message": code}, "ResponseMetadata": meta}
                return SimpleNamespace(status_code=400), refusal
            chosen = self.answers.get(model.name)
            found = chosen(given[model.name]) if callable(chosen) else chosen
            return SimpleNamespace(status_code=200), found if found is not None else made_answer(model)

        events.register_last("before-parameter-build", record)
        events.register_first("before-call", answer)


@contextmanager
def recorder() -> Iterator[Recorder]:
    """Watch every client that is made in the block."""
    made, real = Recorder(), botocore.session.Session.create_client

    def create(self: Any, *arguments: Any, **more: Any) -> Any:
        client = real(self, *arguments, **more)
        made.watch(client)
        return client

    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ENDPOINT_URL", "AWS_PROFILE", "AWS_CONFIG_FILE"):
            patch.delenv(name, raising=False)
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setattr(botocore.session.Session, "create_client", create)
        # Every session would read AWS's descriptions of its services anew.
        patch.setattr("botocore.session.create_loader", lambda *_: _LOADER)
        yield made


def made_answer(model: OperationModel) -> dict[str, Any]:
    """Return an answer with every member of the output, and without a next page."""
    shape = model.output_shape
    answer = _structure(shape, 0) if isinstance(shape, StructureShape) else {}
    return {**answer, "ResponseMetadata": {"HTTPStatusCode": 200, "HTTPHeaders": {}}}


def _structure(shape: StructureShape, depth: int) -> dict[str, Any]:
    if depth > _DEPTH:
        return {}
    names = [name for name in shape.members if not name.lower().endswith(_TOKENS)]
    return {name: _value(shape.members[name], depth + 1, name) for name in names}


def _value(shape: Shape, depth: int, name: str) -> Any:
    if shape.serialization.get("streaming") or (name == "Body" and shape.type_name == "blob"):
        return StreamingBody(io.BytesIO(b"x"), 1)
    match shape:
        case StructureShape():
            return _structure(shape, depth)
        case ListShape():
            return [_value(shape.member, depth + 1, name)] if depth <= _DEPTH else []
        case MapShape():
            return {}
        case StringShape():
            # A number, too; some are parameters of a later call, which have a shortest length.
            return shape.enum[0] if shape.enum else "1" * max(1, shape.metadata.get("min", 1))
    plain = {"boolean": False, "timestamp": datetime(2026, 1, 1, tzinfo=UTC), "blob": b"x"}
    return plain.get(shape.type_name, 1)


def _caller() -> tuple[str, str]:
    """Return the file and the outermost function or method of the innermost frame of our source; "" for none."""
    for frame, _ in walk_stack(None):
        name = frame.f_code.co_filename
        if name.startswith(SOURCES):
            return str(Path(name).relative_to(ROOT)), frame.f_code.co_qualname.partition(".<locals>")[0]
    return "", ""
