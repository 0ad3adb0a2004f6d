"""`model push` and `bootstrap` of a model that is on a hub only: a build copies it, and they follow the build."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from cli import hub_push
from cli.errors import NotFound
from cli.hub_push import require_builds
from tests.unit.cli import weights
from tests.unit.cli.conftest import Run
from tests.unit.cli.fake_clock import FakeClock
from tests.unit.cli.memory_builds import MemoryBuilds
from tests.unit.cli.memory_cdk import BUCKET, MemoryCdk, install_cdk
from tests.unit.cli.memory_cloudformation import MemoryCloudFormation
from tests.unit.cli.stand_in_hub import COMMIT, StandInHub, stand_in_hub
from tests.unit.cli.test_model import held, written
from tests.unit.core.sizing.models import LLAMA_3_1_70B

NAME = "acme/tiny"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandInHub]:
    with stand_in_hub() as hub:
        hub.add(NAME, weights.model())
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        yield hub


def add_large(hub: StandInHub) -> None:
    """Replace the model by one that needs eight large GPUs."""
    hub.add(NAME, {**weights.model(), "config.json": json.dumps(LLAMA_3_1_70B).encode()})
    hub.claimed = {"model.safetensors": 141_107_412_992}


@pytest.fixture
def cdk(aws: MemoryCloudFormation, monkeypatch: pytest.MonkeyPatch) -> type[MemoryCdk]:
    return install_cdk(aws, monkeypatch)


@pytest.fixture
def builds(hub: StandInHub, monkeypatch: pytest.MonkeyPatch) -> MemoryBuilds:
    """Builds of the project as it is deployed."""
    found = MemoryBuilds({"SYNKTI_MODELS_BUCKET": BUCKET, "HF_ENDPOINT": hub.address})
    found.install(monkeypatch)
    monkeypatch.setattr(hub_push, "CLOCK", FakeClock().clock)
    return found


def test_a_model_on_the_hub_is_copied_by_a_build(bucket: str, builds: MemoryBuilds, run: Run) -> None:
    done = run("model", "push", f"{NAME}@main", "--name", "small")
    assert (done.code, f"{NAME}@{COMMIT}: 3 files" in done.err) == (0, True), done.err
    (started,) = builds.started
    assert started["projectName"] == "synkti-model"
    assert held(bucket)["models/small/config.json"] == weights.CONFIG
    again = run("model", "push", NAME, "--name", "small", "--json").document
    assert (again["changed"], again["files"], again["model"]) == (False, 3, "small")
    assert f'model_sha256 = "{again["manifest_sha256"]}"' in done.out


def test_a_model_in_the_cache_needs_no_build(
    bucket: str, builds: MemoryBuilds, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = tmp_path / "hub" / "models--acme--tiny"
    written(cached / "snapshots" / COMMIT, weights.model())
    written(cached / "refs", {"main": COMMIT.encode()})
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    for given in (NAME, f"{NAME}@main", f"{NAME}@{COMMIT}"):
        assert run("model", "push", given).code == 0
    assert builds.started == []
    metadata = boto3.client("s3").head_object(Bucket=bucket, Key="models/tiny/manifest.sha256")["Metadata"]
    assert metadata == {"origin": f"{NAME}@{COMMIT}"}, "so that a deployment takes it for a copy of the hub's"
    assert run("model", "push", f"{NAME}@v2", "--name", "other").code == 4, "that revision is not in the cache"
    assert len(builds.started) == 0, "and not on the hub"


@pytest.mark.parametrize(
    ("repository", "code", "message"),
    [
        ({"gated": True}, 6, "is gated"),
        ({"private": True}, 6, "or it is private"),
    ],
)
def test_a_model_that_neither_machine_may_read_starts_no_build(
    repository: dict[str, bool], code: int, message: str, bucket: str, hub: StandInHub, builds: MemoryBuilds, run: Run
) -> None:
    hub.add(NAME, weights.model(), **repository)
    done = run("model", "push", NAME)
    assert (done.code, message in done.err, "create-secret" in done.err) == (code, True, True), done.err
    assert builds.started == []


def test_the_build_reads_a_gated_model_with_the_token_of_the_secret(
    bucket: str, hub: StandInHub, builds: MemoryBuilds, run: Run, nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(NAME, weights.model(), gated=True, allowed=frozenset({"hf_secret", "hf_mine"}))
    (nowhere / "synkti.toml").write_text('hub_token_secret = "hub"\n')
    builds.environ = {**(builds.environ or {}), "SYNKTI_HUB_TOKEN_SECRET": "hub"}
    missing = run("model", "push", NAME)
    assert (missing.code, "aws secretsmanager create-secret --name hub" in missing.err) == (1, True), missing.err
    boto3.client("secretsmanager").create_secret(Name="hub", SecretString="hf_secret")
    done = run("model", "push", NAME)
    assert (done.code, "decided by the build" in done.err) == (0, True), done.err
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    assert "decided by the build" not in run("model", "push", NAME).err


@pytest.mark.parametrize(
    ("refuses", "code", "message"),
    [
        ("ResourceNotFoundException", 4, "synkti bootstrap deploys it"),
        ("AccountLimitExceededException", 1, "request a quota"),
        ("AccessDeniedException", 6, "may not do StartBuild"),
    ],
)
def test_a_build_that_cannot_start_is_explained(
    refuses: str, code: int, message: str, bucket: str, builds: MemoryBuilds, run: Run
) -> None:
    builds.refuses = refuses
    done = run("model", "push", NAME)
    assert (done.code, message in done.err) == (code, True), done.err


def test_a_build_that_ends_without_a_word_is_a_failure(bucket: str, builds: MemoryBuilds, run: Run) -> None:
    builds.dies, builds.status = True, "TIMED_OUT"
    done = run("model", "push", NAME)
    assert (done.code, "ended as TIMED_OUT" in done.err, "aws logs tail" in done.err) == (1, True, True), done.err


def test_a_model_that_no_type_holds_starts_no_build(
    bucket: str, hub: StandInHub, builds: MemoryBuilds, run: Run
) -> None:
    add_large(hub)
    assert run("model", "push", NAME).code == 1
    assert builds.started == []


def test_bootstrap_copies_the_model_before_it_creates_nodes(
    cdk: type[MemoryCdk], builds: MemoryBuilds, run: Run
) -> None:
    done = run("bootstrap", "--model", NAME, "--yes")
    assert done.code == 0, done.err
    assert cdk.ran[2:] == ["deploy synkti-state", "deploy synkti-model", "synth", "deploy everything"]
    assert f'model_source = "{NAME}" in synkti.toml' in done.err
    assert "models/model/manifest.sha256" in held(BUCKET)
    cdk.ran.clear()
    assert run("bootstrap", "--yes", "--json").document["changed"] == []
    assert cdk.ran == ["synth", "synth", "deploy everything"]


def test_bootstrap_fetches_what_the_settings_name(
    cdk: type[MemoryCdk], builds: MemoryBuilds, run: Run, nowhere: Path
) -> None:
    (nowhere / "synkti.toml").write_text(f'model_source = "{NAME}"\n')
    refused = run("bootstrap", "--model", "acme/other", "--yes")
    assert (refused.code, "model_source in synkti.toml is acme/tiny" in refused.err) == (2, True)
    done = run("bootstrap", "--yes", "--json")
    assert done.document["changed"] == ["CDKToolkit", "models/model", "synkti-state", "synkti-fleet", "key"]
    cdk.ran.clear()
    assert run("bootstrap", "--yes").code == 0
    assert cdk.ran == ["synth", "deploy everything"], "it is there"


def test_doctor_says_that_a_deployment_fetches_the_model(
    cdk: type[MemoryCdk], bucket: str, hub: StandInHub, run: Run, nowhere: Path
) -> None:
    add_large(hub)
    (nowhere / "synkti.toml").write_text(f'model_source = "{NAME}"\ninstance_types = ["g6.xlarge"]\n')
    done = run("doctor", "--no-templates")
    assert f"a deployment fetches model from the hub: {NAME}" in done.out
    assert "g6.xlarge cannot run model" in done.out, "the hub's config.json says so"


def test_a_region_without_builds_is_named_before_anything_is_read() -> None:
    require_builds("eu-central-1")
    with pytest.raises(NotFound, match="ca-west-1 has no CodeBuild") as error:
        require_builds("ca-west-1")
    assert "synkti model push DIR" in error.value.advice
