"""A deployment's model, from CloudFormation's request to its response: the Lambda's code, the deployed build's own
commands in a shell, a hub over HTTP, and S3 and Secrets Manager of the embedded AWS. CodeBuild itself is not there: the
test runs the commands with the variables that the Lambda passes to it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from checks.assemblies import SHIPPED, Synthesized, synthesize
from lambdas.custom_resource import put_response
from lambdas.model_request import RequestDependencies, handle_request
from local.aws import EmbeddedAws
from local.process_cleanup import kill_all_in
from node_agent.adapters.model_store import ModelStore
from tests.unit.cli import weights
from tests.unit.cli.stand_in_hub import COMMIT, StandInHub, stand_in_hub

pytestmark = pytest.mark.e2e
BUCKET = "synkti-models-000000000000-us-east-1"
FILES = weights.model() | {"model.safetensors": weights.safetensors(size=65 * 1024 * 1024)}  # two ranges


@dataclass
class CloudFormation:
    """Where responses go to."""

    url: str = ""
    responses: list[dict[str, Any]] = field(default_factory=list)

    def request(self, kind: str = "Create") -> dict[str, Any]:
        return {
            "RequestType": kind,
            "ResponseURL": self.url,
            "StackId": "stack/1",
            "RequestId": f"request-{len(self.responses)}",
            "LogicalResourceId": "RequestModel",
            "ResourceProperties": {"Name": "tiny", "Source": "acme/tiny"},
        }


@pytest.fixture
def cloudformation() -> Iterator[CloudFormation]:
    found = CloudFormation()

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            assert not self.headers.get("Content-Type"), "the URL's signature has none"
            found.responses.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    found.url = f"http://127.0.0.1:{server.server_address[1]}/response?signed"
    yield found
    server.shutdown()
    server.server_close()


@pytest.fixture
def hub() -> Iterator[StandInHub]:
    with stand_in_hub() as hub:
        hub.add("acme/tiny", FILES, gated=True, allowed=frozenset({"hf_secret"}))
        yield hub


@dataclass
class World:
    """Runs a build as CodeBuild would: each phase in a shell, the last one also after a failure."""

    aws: EmbeddedAws
    templates: Synthesized
    folder: Path
    hub: StandInHub
    started: list[dict[str, Any]] = field(default_factory=list)

    def start_build(self, **request: Any) -> dict[str, Any]:
        self.started.append(request)
        return {"build": {"id": "synkti-model:1"}}

    def run_build(self, **more: str) -> str:
        project = self.templates.only("AWS::CodeBuild::Project")
        own = {each["Name"]: each["Value"] for each in project["Environment"]["EnvironmentVariables"]}
        given = {each["name"]: each["value"] for each in self.started[-1]["environmentVariablesOverride"]}
        path = f"{self._programs()}:{os.environ['PATH']}"
        fixed = {"SYNKTI_MODELS_BUCKET": BUCKET, "PATH": path, "HF_ENDPOINT": self.hub.address}
        environ = {**self.aws.environ(), **own, **given, **fixed, **more}
        source = self.folder / f"build-{len(self.started)}"
        source.mkdir()
        phases = json.loads(text_of(project["Source"]["BuildSpec"]))["phases"]
        output, succeeding = "", True
        for phase in ("build", "post_build"):
            for command in phases[phase]["commands"]:
                state = {"CODEBUILD_BUILD_SUCCEEDING": "1" if succeeding else "0"}
                done = subprocess.run(
                    ["bash", "-c", command], cwd=source, env={**environ, **state}, capture_output=True, text=True,
                    check=False,
                )  # fmt: skip
                output += done.stdout + done.stderr
                if done.returncode:
                    succeeding = False
                    break
        return output

    def _programs(self) -> Path:
        """python3 of this environment, and an `aws` that has the archive, as the CDK's bucket would."""
        folder = self.folder / "programs"
        if not folder.exists():
            folder.mkdir()
            (archive,) = self.templates.folder.glob("hubjob-*.tar")
            (folder / "aws").write_text(f'#!/bin/sh\n[ -z "$NO_ARCHIVE" ] && cp {archive} "$5"\n')
            (folder / "python3").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
            for program in folder.iterdir():
                program.chmod(0o755)
        return folder


def text_of(value: Any) -> str:
    """A text of a template, with CloudFormation's references as they are."""
    if isinstance(value, str):
        return value
    return "".join(piece if isinstance(piece, str) else "REFERENCE" for piece in value["Fn::Join"][1])


@pytest.fixture
def world(tmp_path: Path, hub: StandInHub) -> Iterator[World]:
    settings = replace(SHIPPED, model="tiny", model_source="acme/tiny", hub_token_secret="hub")
    aws = EmbeddedAws(tmp_path / "run", tmp_path / "logs")
    try:
        aws.wait()
        aws.client("s3").create_bucket(Bucket=BUCKET)
        yield World(aws, synthesize(tmp_path / "cdk.out", settings), tmp_path, hub)
    finally:
        aws.stop()
        assert kill_all_in(tmp_path)


@pytest.mark.skipif(shutil.which("curl") is None, reason="the build's last command is curl's")
def test_a_deployment_gets_its_model_or_the_reason(world: World, cloudformation: CloudFormation) -> None:
    dependencies = RequestDependencies("synkti-model", world, put_response)
    store = ModelStore(world.aws.client("s3"), BUCKET)

    handle_request(cloudformation.request(), dependencies)
    output = world.run_build()
    assert "'hub'" in output, output
    failed = cloudformation.responses[-1]
    assert (failed["Status"], failed["RequestId"]) == ("FAILED", "request-0")
    assert "aws secretsmanager create-secret --name hub" in failed["Reason"]

    world.aws.client("secretsmanager").create_secret(Name="hub", SecretString="hf_secret")
    handle_request(cloudformation.request("Update"), dependencies)
    output = world.run_build()
    assert cloudformation.responses[-1]["Status"] == "SUCCESS", output
    assert f"a copy of acme/tiny@{COMMIT}" in output
    manifest = store.manifest("tiny")
    assert {file.path: file.size for file in manifest.files} == {path: len(body) for path, body in FILES.items()}
    found = bytearray()
    size = len(FILES["model.safetensors"])
    store.read("tiny", "model.safetensors", 0, size, found.extend)
    assert bytes(found) == FILES["model.safetensors"]
    assert len(cloudformation.responses) == 2, "one response to each request"

    handle_request(cloudformation.request("Update"), dependencies)
    world.run_build(NO_ARCHIVE="1")
    lost = cloudformation.responses[-1]
    assert (lost["Status"], "ended without a result" in lost["Reason"]) == ("FAILED", True)
    assert len(cloudformation.responses) == 3
