"""The two optional stacks: the image, and the GitHub deployer."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from checks.assemblies import EVERYTHING, SHIPPED, Synthesized, synthesize
from stacks.constructs.node_template import GPU_AMI_PARAMETER

PROVIDER = "arn:aws:iam::123456789012:oidc-provider/token.actions.githubusercontent.com"


def component(templates: Synthesized) -> str:
    data: Any = templates.only("AWS::ImageBuilder::Component")["Data"]
    if isinstance(data, str):
        return data
    return "".join(piece if isinstance(piece, str) else "<reference>" for piece in data["Fn::Join"][1])


def test_the_optional_stacks_are_absent_by_default(production: Synthesized) -> None:
    assert list(production.templates) == ["synkti-state", "synkti-fleet", "synkti-events"]


def test_an_image_is_built_from_the_aws_image_with_the_nodes_install_script(everything: Synthesized) -> None:
    recipe = everything.only("AWS::ImageBuilder::ImageRecipe")
    assert recipe["ParentImage"] == f"ssm:{GPU_AMI_PARAMETER}"
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


def test_another_model_changes_the_image_and_other_engine_arguments_do_not(
    everything: Synthesized, tmp_path: Path
) -> None:
    name = everything.only("AWS::ImageBuilder::ImageRecipe")["Name"]
    other = synthesize(tmp_path / "model", replace(EVERYTHING, model_sha256="b" * 64))
    assert other.only("AWS::ImageBuilder::ImageRecipe")["Name"] != name
    same = synthesize(tmp_path / "arguments", replace(EVERYTHING, engine_args=("--max-model-len", "8192")))
    assert same.only("AWS::ImageBuilder::ImageRecipe")["Name"] == name


def trust(templates: Synthesized) -> dict[str, Any]:
    roles = templates.templates["synkti-github"]["Resources"]
    (role,) = [each["Properties"] for each in roles.values() if each["Type"] == "AWS::IAM::Role"]
    (statement,) = role["AssumeRolePolicyDocument"]["Statement"]
    assert role["RoleName"] == "synkti-github-deployer"
    return dict(statement)


def test_only_one_branch_of_one_repository_may_deploy(everything: Synthesized) -> None:
    statement = trust(everything)
    assert statement["Action"] == "sts:AssumeRoleWithWebIdentity"
    assert statement["Condition"] == {
        "StringEquals": {
            "token.actions.githubusercontent.com:aud": "sts.amazonaws.com",
            "token.actions.githubusercontent.com:sub": "repo:acme/models:ref:refs/heads/main",
        }
    }
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
    subject = statement["Condition"]["StringEquals"]["token.actions.githubusercontent.com:sub"]
    assert subject == "repo:acme/models:ref:refs/heads/live"
