"""Makes every call of the build that copies a model from a hub: against a hub on this machine."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import boto3
import pytest
from botocore.response import StreamingBody

from checks.assemblies import EVERYTHING, REGION
from cli import hub_copy
from cli.errors import Failed
from cli.hub_copy import Copied, CopyOptions
from cli.hub_job import HubJob, hub_of_job, run_job
from node_agent.contract.hub import parse_hub_name
from node_agent.contract.models import ModelFile, format_manifest
from tests.aws_calls.agent_calls import MODEL, MODELS
from tests.aws_calls.recording import Recorder
from tests.unit.cli import weights
from tests.unit.cli.stand_in_hub import COMMIT, StandInHub, stand_in_hub

NAME = "acme/tiny"
WEIGHTS = "model.safetensors"
FILES = weights.model()
SECRET = EVERYTHING.hub_token_secret
_SHA256 = {path: hashlib.sha256(body).hexdigest() for path, body in FILES.items()}
_RANGE_BYTES = 200
"""Below the size of the weights, which are then an upload of several parts."""


def call_as_build(recorder: Recorder) -> None:
    """Copy a whole model, one whose weights are damaged, one that is there, and one that replaces another."""
    with stand_in_hub() as hub, pytest.MonkeyPatch.context() as patch:
        hub.add(NAME, FILES)
        patch.setattr(hub_copy, "RANGE_BYTES", _RANGE_BYTES)
        patch.setenv("AWS_DEFAULT_REGION", REGION)
        with recorder.answering(HeadObject=_head, DeleteObjects={}):
            with recorder.refusing(GetObject="NoSuchKey"), recorder.answering(ListObjectsV2={}):
                assert _copy(hub).sent_bytes == sum(map(len, FILES.values()))
                with _damaged(hub), pytest.raises(Failed, match="hash"):
                    _copy(hub)
            with recorder.answering(GetObject=_manifest, ListObjectsV2={"Contents": [_STALE]}):
                assert _copy(hub).sent_bytes == 0, "a copy of this repository stays"
                assert _copy(hub, replace=True).sent_bytes > 0
        with (
            recorder.refusing(GetObject="NoSuchKey"),
            recorder.answering(HeadObject={"ContentLength": 1}, ListObjectsV2={}, DeleteObjects={}),
            pytest.raises(Failed, match="differs in S3"),
        ):
            _copy(hub)


_STALE = {"Key": f"models/{MODEL}/stale.safetensors", "Size": 9}


def _copy(hub: StandInHub, **options: bool) -> Copied:
    job = HubJob(MODELS, MODEL, parse_hub_name(NAME), token_secret=SECRET, options=CopyOptions(**options))
    session = boto3.session.Session()
    return run_job(job, session, hub_of_job(job, session, {"HF_ENDPOINT": hub.address}), lambda _: None)


@contextmanager
def _damaged(hub: StandInHub) -> Iterator[None]:
    hub.damaged = frozenset({WEIGHTS})
    yield
    hub.damaged = frozenset()


def _head(params: Mapping[str, Any]) -> Mapping[str, Any]:
    """Answer as S3 does for what was copied."""
    path = params["Key"].rpartition("/")[2]
    metadata = {"sha256": _SHA256[path]} if path in _SHA256 else {"origin": f"{NAME}@{COMMIT}"}
    return {"ContentLength": len(FILES.get(path, b"")), "Metadata": metadata}


def _manifest(_: Mapping[str, Any]) -> Mapping[str, Any]:
    files = [ModelFile(path, _SHA256[path], len(body)) for path, body in FILES.items()]
    body = format_manifest(files).encode()
    return {"Body": StreamingBody(io.BytesIO(body), len(body))}
