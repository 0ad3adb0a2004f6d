"""The stack of models from a hub: the build, the custom resource, and their order before the fleet."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from checks.assemblies import EVERYTHING, SHIPPED, Synthesized, synthesize
from lambdas.model_request import BUILD_MINUTES, COPY_S
from node_agent.contract.errors import ConfigurationError
from stacks.constructs.artifact import HUB_JOB, pack
from stacks.settings import from_values
from tests.templates.test_permissions import granted

SOURCE = "acme/tiny@v1"


@pytest.fixture(scope="module")
def sourced(tmp_path_factory: pytest.TempPathFactory) -> Synthesized:
    return synthesize(tmp_path_factory.mktemp("sourced"), replace(SHIPPED, model="tiny", model_source=SOURCE))


def project(templates: Synthesized) -> dict[str, Any]:
    return templates.only("AWS::CodeBuild::Project")


def dependencies(templates: Synthesized, stack: str) -> set[str]:
    manifest = json.loads((templates.folder / "manifest.json").read_text())
    return {name for name in manifest["artifacts"][stack]["dependencies"] if not name.endswith(".assets")}


def test_the_fleet_and_an_image_wait_for_the_model(sourced: Synthesized, everything: Synthesized) -> None:
    """A node, or an image build, that starts before its model is there gives up."""
    assert list(sourced.templates)[:3] == ["synkti-state", "synkti-model", "synkti-fleet"]
    assert "synkti-model" in dependencies(sourced, "synkti-fleet")
    assert {"synkti-model", "synkti-state"} <= dependencies(everything, "synkti-image")
    assert "synkti-state" in dependencies(sourced, "synkti-model")


def test_a_deployment_waits_an_hour_for_the_copy_of_the_model_in_its_settings(
    sourced: Synthesized, production: Synthesized
) -> None:
    model = sourced.only("Custom::SynktiModel")
    assert (model["Name"], model["Source"], model["ServiceTimeout"]) == ("tiny", SOURCE, "3600")
    assert production.resources("Custom::SynktiModel") == {}, "without model_source nothing is copied"
    assert project(production)["Name"] == "synkti-model", "the build is there for synkti model push"


def test_the_copy_ends_before_the_build_and_the_build_before_cloudformations_patience(sourced: Synthesized) -> None:
    assert COPY_S < BUILD_MINUTES * 60 < int(sourced.only("Custom::SynktiModel")["ServiceTimeout"])


def test_the_build_knows_its_bucket_and_the_fleet(everything: Synthesized) -> None:
    variables = {each["Name"]: each["Value"] for each in project(everything)["Environment"]["EnvironmentVariables"]}
    assert variables["SYNKTI_HUB_TOKEN_SECRET"] == EVERYTHING.hub_token_secret
    assert variables["SYNKTI_INSTANCE_TYPES"].split(",") == list(EVERYTHING.instance_types)
    assert set(variables) == {
        "SYNKTI_MODELS_BUCKET", "SYNKTI_HUB_TOKEN_SECRET", "SYNKTI_INSTANCE_TYPES", "SYNKTI_ENGINE_ARGS"
    }  # fmt: skip


def test_the_build_may_read_one_secret_and_only_where_it_is_named(
    production: Synthesized, everything: Synthesized
) -> None:
    def secrets(templates: Synthesized) -> list[str]:
        found = [each for each in granted(templates) if each.role == "model copy" and "secrets" in each.action]
        return [each.resource for each in found]

    assert secrets(production) == []
    assert secrets(everything) == ["arn:aws:secretsmanager:REGION:ACCOUNT:secret:synkti-hub-token-??????"]


def test_the_archive_of_the_job_is_all_that_it_imports(tmp_path: Path) -> None:
    """The build's Python has boto3 and nothing else."""
    archive = tmp_path / "job.tar"
    archive.write_bytes(pack(HUB_JOB).content)
    folder = tmp_path / "unpacked"
    with tarfile.open(archive) as held:
        held.extractall(folder, filter="data")
    program = (
        "import sys, pathlib; import cli.hub_job\n"
        "ours = [m for n, m in sys.modules.items() if n.partition('.')[0] in ('cli', 'node_agent', 'stacks')]\n"
        "print([m.__file__ for m in ours if not m.__file__.startswith(str(pathlib.Path.cwd()))])\n"
        "print([n for n in ('typer', 'rich', 'aws_cdk', 'orjson', 'httpx') if n in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False, env={"PATH": ""}
    )
    assert (done.stdout, done.stderr) == ("[]\n[]\n", "")


@pytest.mark.parametrize("wrong", [{"model_source": "https://hub/x"}, {"hub_token_secret": "arn:aws:x:::y z"}])
def test_a_wrong_source_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError) as refused:
        from_values(wrong, lambda name: None)
    assert next(iter(wrong)) in refused.value.faults[0]
    assert from_values({"model_source": SOURCE}, lambda name: None).model_source == SOURCE
