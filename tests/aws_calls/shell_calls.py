"""The calls of the AWS CLI in the boot scripts and the workflows, as calls of botocore's operations.

`aws SERVICE COMMAND --option VALUE` is the operation of that name; each option is a parameter. What a script computes
is replaced by the fleet's names, by the variable that has it.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import botocore.session
from botocore import xform_name
from botocore.model import OperationModel, Shape
from botocore.validate import ParamValidator

from node_agent.contract import names
from node_agent.contract.launch_breaker import GAVE_UP_EVENT
from node_agent.contract.wheelhouse import PREFIX
from stacks.base_image import GPU_AMI_PARAMETER
from tests.aws_calls.agent_calls import CHECKPOINTS, GROUP, MODELS, NODE
from tests.aws_calls.recording import ROOT, Call

AGENT_URL = "s3://cdk-hnb659fds-assets-123456789012-us-east-1/AGENT.tar"
VALUES: Mapping[str, str] = {
    "$SYNKTI_READY_HOOK": names.READY_HOOK,
    "$SYNKTI_GROUP": GROUP,
    "$SYNKTI_CHECKPOINTS_BUCKET": CHECKPOINTS,
    "$SYNKTI_MODELS_BUCKET": MODELS,
    "$SYNKTI_AGENT_URL": AGENT_URL,
    "$source": f"s3://{MODELS}/{PREFIX}agent-0123456789abcdef",
    "$key": f"{names.CACHES_PREFIX}g6.xlarge-0123456789abcdef.tar",
    "$PARAMETER": GPU_AMI_PARAMETER,
    "$name": f"{names.END_OF_LIFE_PREFIX}{NODE}/2026-11-30T00-00-00Z-ended.log",
    "$last_log": "/tmp/log",
    "$archive": "/tmp/agent.tar",
    "$root": "",
    "$1": "CONTINUE",
    "$2": "/tmp/packages",
    "$(instance_id)": NODE,
    '$(cat "$root/var/lib/cloud/data/instance-id")': NODE,
}
_COMMAND = re.compile(r"(?<![\w/-])aws (?:\\\n|[^\n|&;]|\n(?=\s+--))+")
_REDIRECTION = re.compile(r"\s+\d?>\s*\S*\s*$")
SHELL_ONLY = frozenset({"query", "output", "region", "only-show-errors"})
"""Options of the AWS CLI itself."""


def shell_calls(folder: str, pattern: str) -> Iterator[Call]:
    """Yield the calls of the scripts in a folder. Raises ValueError for a command that is not understood."""
    for path in sorted((ROOT / folder).glob(pattern)):
        text = "\n".join(line for line in path.read_text().splitlines() if not line.lstrip().startswith("#"))
        for match in _COMMAND.finditer(text):
            yield from _calls(str(path.relative_to(ROOT)), _words(match[0], path))


def _words(command: str, path: Path) -> list[str]:
    text = _REDIRECTION.sub("", command.replace("\\\n", " "))
    for variable in sorted(VALUES, key=len, reverse=True):
        text = text.replace(variable, VALUES[variable])
    text = text.replace('"$entries"', shlex.quote(_entries()))
    if "$" in text:
        raise ValueError(f"{path.name}: what {text!r} computes is not known here; see VALUES")
    return shlex.split(text.strip().removesuffix(")"))


def _entries() -> str:
    """Return the event of a node that gave up, as instance.sh fills its form."""
    form = (ROOT / "stacks/boot/gave-up.json").read_text()
    filled = form.replace("@GROUP@", GROUP).replace("@INSTANCE@", NODE).replace("@REASON@", "it cannot start")
    assert json.loads(filled)[0]["DetailType"] == GAVE_UP_EVENT
    return filled


def _calls(module: str, words: list[str]) -> Iterator[Call]:
    _, service, command, *arguments = words
    if service == "s3":
        plain = [each for each in arguments if not each.startswith(("--", ">"))]
        yield from _list(module, *plain) if command == "ls" else ()
        yield from _copy(module, *plain, recursive="--recursive" in arguments) if command == "cp" else ()
        return
    service = {"s3api": "s3"}.get(service, service)
    model = _model(service, command)
    yield Call(service, model.name, module, params := _params(model, arguments), _faults(model, params))


def _list(module: str, address: str) -> Iterator[Call]:
    """Yield what `aws s3 ls` calls."""
    bucket, _, prefix = address.removeprefix("s3://").partition("/")
    yield Call("s3", "ListObjectsV2", module, {"Bucket": bucket, "Prefix": prefix, "Delimiter": "/"})


def _copy(module: str, source: str, target: str, *, recursive: bool) -> Iterator[Call]:
    """Yield what `aws s3 cp` calls: for a large file in parts, which are aborted where one fails."""
    if recursive:
        yield from _list(module, source)
        source += "manifest.sha256"  # one of those that are listed
    uploads = ("PutObject", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload", "AbortMultipartUpload")
    there, operations = (source, ("HeadObject", "GetObject")) if source.startswith("s3://") else (target, uploads)
    bucket, _, key = there.removeprefix("s3://").partition("/")
    for operation in operations:
        yield Call("s3", operation, module, {"Bucket": bucket, "Key": key})


@cache
def _model(service: str, command: str) -> OperationModel:
    models = botocore.session.get_session().get_service_model(service)
    (name,) = [each for each in models.operation_names if xform_name(each, "-") == command]
    return models.operation_model(name)


def _params(model: OperationModel, arguments: list[str]) -> dict[str, Any]:
    """Return the options as parameters. Raises ValueError for one that the operation does not have."""
    shape = model.input_shape
    assert shape is not None
    members = {xform_name(name, "-"): name for name in shape.members}
    found: dict[str, Any] = {}
    for option, value in pairwise(arguments):
        name = option.removeprefix("--")
        if not option.startswith("--") or name in SHELL_ONLY:
            continue
        if name in members:
            found[members[name]] = _value(shape.members[members[name]], value)
        elif model.name == "PutMetricData" and name in _METRIC:  # shorthand of the CLI for one datum
            found.setdefault("MetricData", [{}])[0] |= {_METRIC[name][0]: _METRIC[name][1](value)}
        else:
            raise ValueError(f"{model.name} has no option --{name}")
    return found


def _dimensions(value: str) -> list[dict[str, str]]:
    return [dict(zip(("Name", "Value"), each.split("=", 1), strict=True)) for each in value.split(",")]


_METRIC: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    "metric-name": ("MetricName", str),
    "unit": ("Unit", str),
    "value": ("Value", float),
    "dimensions": ("Dimensions", _dimensions),
}


def _value(shape: Shape, text: str) -> Any:
    return json.loads(text) if shape.type_name in ("list", "structure", "map") else text


def _faults(model: OperationModel, params: Mapping[str, Any]) -> str:
    assert model.input_shape is not None
    return str(ParamValidator().validate(dict(params), model.input_shape).generate_report())
