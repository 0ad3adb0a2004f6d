"""The two optional stacks: the image, and the GitHub deployer."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from checks.assemblies import EVERYTHING, IMAGE_ID, SHIPPED, Synthesized, synthesize
from stacks.base_image import GPU_AMI_PARAMETER
from stacks.github_stack import ENVIRONMENT
from tests.templates.conftest import as_list

WORKFLOW = Path(__file__).parents[2] / ".github/workflows/deploy.yml"
PROVIDER = "arn:aws:iam::123456789012:oidc-provider/token.actions.githubusercontent.com"


def component(templates: Synthesized) -> str:
    data: Any = templates.only("AWS::ImageBuilder::Component")["Data"]
    if isinstance(data, str):
        return data
    return "".join(piece if isinstance(piece, str) else "<reference>" for piece in data["Fn::Join"][1])


def test_the_optional_stacks_are_absent_by_default(production: Synthesized) -> None:
    assert list(production.templates) == ["synkti-state", "synkti-model", "synkti-fleet", "synkti-events"]


def test_an_image_is_built_from_the_aws_image_with_the_nodes_install_script(everything: Synthesized) -> None:
    recipe = everything.only("AWS::ImageBuilder::ImageRecipe")
    assert recipe["ParentImage"] == IMAGE_ID
    assert recipe["BlockDeviceMappings"][0]["Ebs"]["Encrypted"] is True
    steps = component(everything)
    assert "sha256sum --check" in steps
    assert "stacks/boot/install.sh" in steps
    assert "node_agent.fetch_model --to /opt/synkti/baked-models/model" in steps
    infrastructure = everything.only("AWS::ImageBuilder::InfrastructureConfiguration")
    assert infrastructure["InstanceMetadataOptions"] == {"HttpTokens": "required", "HttpPutResponseHopLimit": 1}
    assert infrastructure["TerminateInstanceOnFailure"] is True


def test_the_fleet_reads_the_image_from_a_parameter(everything: Synthesized) -> None:
    parameter = everything.only("AWS::SSM::Parameter")
    assert (parameter["Name"], parameter["DataType"]) == ("/synkti/synkti/image-id", "aws:ec2:image")
    fleet = everything.templates["synkti-fleet"]
    assert parameter["Name"] in [each.get("Default") for each in fleet["Parameters"].values()]
    assert "synkti-image" not in json.dumps(fleet["Resources"]), "CloudFormation cannot change an export in use"


def test_a_model_is_baked_only_if_bake_model_is_set(tmp_path: Path) -> None:
    bare = synthesize(tmp_path, replace(EVERYTHING, bake_model=False))
    assert "node_agent.fetch_model" not in component(bare)
    policies = json.dumps(bare.templates["synkti-image"]["Resources"])
    assert "models/model" not in policies


def test_without_a_pin_an_image_is_built_upon_the_newest_of_aws(everything: Synthesized, tmp_path: Path) -> None:
    floating = synthesize(tmp_path, replace(EVERYTHING, base_image_id="")).only("AWS::ImageBuilder::ImageRecipe")
    assert floating["ParentImage"] == f"ssm:{GPU_AMI_PARAMETER}"
    assert floating["Name"] != everything.only("AWS::ImageBuilder::ImageRecipe")["Name"], "recipes cannot be changed"


def test_another_model_changes_the_image_and_other_engine_arguments_do_not(
    everything: Synthesized, tmp_path: Path
) -> None:
    name = everything.only("AWS::ImageBuilder::ImageRecipe")["Name"]
    other = synthesize(tmp_path / "model", replace(EVERYTHING, model_sha256="b" * 64))
    assert other.only("AWS::ImageBuilder::ImageRecipe")["Name"] != name
    same = synthesize(tmp_path / "arguments", replace(EVERYTHING, engine_args=("--max-model-len", "8192")))
    assert same.only("AWS::ImageBuilder::ImageRecipe")["Name"] == name


def trust(templates: Synthesized, name: str = "synkti-github-deployer") -> dict[str, Any]:
    roles = templates.templates["synkti-github"]["Resources"]
    every = [each["Properties"] for each in roles.values() if each["Type"] == "AWS::IAM::Role"]
    (role,) = [each for each in every if each["RoleName"] == name]
    (statement,) = role["AssumeRolePolicyDocument"]["Statement"]
    return dict(statement)


ISSUER = "token.actions.githubusercontent.com"
OLD, NEW = "repo:acme/models", "repo:acme@4321/models@987654321"


def token(subject: str, ref: str = "refs/heads/main", repository_id: str = "987654321") -> dict[str, str]:
    """The claims that GitHub signs for a job, as IAM's condition keys."""
    claims = {"aud": "sts.amazonaws.com", "sub": subject, "ref": ref, "repository_id": repository_id}
    return {f"{ISSUER}:{name}": value for name, value in claims.items()}


def is_trusted(statement: dict[str, Any], claims: dict[str, str]) -> bool:
    """IAM's StringEquals: each key has one of its values; a claim that is missing does not match."""
    (operator,) = statement["Condition"]
    assert operator == "StringEquals"
    return all(claims.get(key) in as_list(wanted) for key, wanted in statement["Condition"][operator].items())


@pytest.mark.parametrize("subject", [OLD, NEW])
def test_a_token_of_the_approved_environment_may_deploy_whatever_the_repositorys_age(
    subject: str, everything: Synthesized
) -> None:
    statement = trust(everything)
    assert statement["Action"] == "sts:AssumeRoleWithWebIdentity"
    assert is_trusted(statement, token(f"{subject}:environment:production"))


@pytest.mark.parametrize(
    "claims",
    [
        token(f"{OLD}:ref:refs/heads/main"),
        token(f"{NEW}:ref:refs/heads/main"),
        token(f"{NEW}:pull_request", ref="refs/pull/1/merge"),
        token(f"{NEW}:environment:staging"),
        token(f"{NEW}:environment:production", ref="refs/heads/feature"),
        token(f"{NEW}:environment:production", ref="refs/tags/main"),
        token("repo:acme@4321/other@987654322:environment:production", repository_id="987654322"),
        token("repo:somebody@9/models@987654321:environment:production"),
        token("repo:acme@4321/models@987654322:environment:production", repository_id="987654322"),
        token(f"{OLD}:environment:production", repository_id="987654322"),
        {**token(f"{NEW}:environment:production"), f"{ISSUER}:aud": "https://github.com/acme"},
        {f"{ISSUER}:sub": f"{NEW}:environment:production"},
    ],
    ids=lambda claims: claims[f"{ISSUER}:sub"],
)
def test_a_job_without_approval_on_another_branch_or_of_another_repository_may_not_deploy(
    claims: dict[str, str], everything: Synthesized
) -> None:
    """The last but two: another owner has taken the name over, in a repository that has subjects by names."""
    assert not is_trusted(trust(everything), claims)


def test_the_deploying_job_is_in_the_environment_that_the_role_trusts() -> None:
    assert re.search(rf"^    environment: {ENVIRONMENT}$", WORKFLOW.read_text(), re.MULTILINE)


def test_the_branch_may_look_for_a_newer_image_without_an_approval(everything: Synthesized) -> None:
    statement = trust(everything, "synkti-github-watcher")
    assert all(is_trusted(statement, token(f"{subject}:ref:refs/heads/main")) for subject in (OLD, NEW))
    assert not is_trusted(statement, token(f"{NEW}:ref:refs/heads/feature", ref="refs/heads/feature"))
    assert not is_trusted(statement, token(f"{NEW}:pull_request", ref="refs/pull/1/merge"))


def test_the_provider_of_the_account_stays_when_the_stack_is_deleted(everything: Synthesized) -> None:
    provider = everything.only("AWS::IAM::OIDCProvider")
    (resource,) = everything.resources("AWS::IAM::OIDCProvider").values()
    assert resource["DeletionPolicy"] == "Retain", "an account has one, which others may use"
    assert provider["Url"] == "https://token.actions.githubusercontent.com"


def test_an_existing_oidc_provider_is_used(tmp_path: Path) -> None:
    settings = replace(
        SHIPPED,
        account="123456789012",
        region="us-east-1",
        github_repository="acme/models",
        github_branch="live",
        github_oidc_provider=PROVIDER,
    )
    github = synthesize(tmp_path, settings)
    assert github.resources("AWS::IAM::OIDCProvider") == {}
    statement = trust(github)
    assert statement["Principal"] == {"Federated": PROVIDER}
    live = token(f"{OLD}:environment:production", ref="refs/heads/live")
    assert is_trusted(statement, live), "without the numbers, as a repository of before has its subjects"
    assert not is_trusted(statement, token(f"{OLD}:environment:production"))
    assert not is_trusted(statement, token(f"{NEW}:environment:production", ref="refs/heads/live"))
