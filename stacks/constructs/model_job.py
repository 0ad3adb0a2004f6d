"""A project in CodeBuild whose builds copy a model from a hub into the models bucket (cli/hub_job)."""

from __future__ import annotations

import json

from aws_cdk import ArnFormat, RemovalPolicy, Stack
from aws_cdk import aws_codebuild as codebuild
from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs
from constructs import Construct

from node_agent.contract import environment as env
from node_agent.contract import names
from stacks.constructs.artifact import Artifact
from stacks.constructs.retention import retention
from stacks.settings import FleetSettings
from stacks.state_stack import StateStack

BUILD_IMAGE = "aws/codebuild/amazonlinux-x86_64-standard:5.0"
"""AWS's image. It has Python 3.11 with boto3 and the AWS CLI, so that a build installs nothing.

Source: github.com/aws/aws-codebuild-docker-images, al/x86_64/standard/5.0/Dockerfile."""

BUILD_TYPE = "BUILD_GENERAL1_MEDIUM"
"""7 GiB of memory, of which the copy uses half a gibibyte, and four vCPUs."""

BUILD_MINUTES = 480
"""CodeBuild's limit. A build that CloudFormation waits for has less time (lambdas/model_request)."""

_MODELS = "models/*"


def build_commands(artifact: Artifact) -> dict[str, list[str]]:
    """Return the shell commands of the build's phases.

    The last one responds to CloudFormation where the job could not: the archive was not there, or memory was used up.
    """
    return {
        "build": [
            f"aws s3 cp --only-show-errors {artifact.url} job.tar",
            f'echo "{artifact.sha256}  job.tar" | sha256sum --check --quiet',
            "tar --extract --file job.tar --no-same-owner",
            "python3 -m cli.hub_job",
        ],
        "post_build": [
            f'if [ "$CODEBUILD_BUILD_SUCCEEDING" != 1 ] && [ -n "${env.RESPONSE_URL}" ] && [ ! -e answered ]; then '
            f"curl --silent --show-error --fail --retry 3 --request PUT --header 'Content-Type:' "
            f'--data "${env.RESPONSE_FAILED}" "${env.RESPONSE_URL}"; fi',
        ],
    }


class ModelJob(Construct):
    """The project (`project`) and its role. A build gets the model's name and source as variables."""

    def __init__(
        self, scope: Construct, construct_id: str, settings: FleetSettings, state: StateStack, artifact: Artifact
    ) -> None:
        super().__init__(scope, construct_id)
        name = names.model_project_name(settings.cluster)
        group = logs.LogGroup(
            self,
            "Logs",
            log_group_name=f"/aws/codebuild/{name}",
            retention=retention(settings.log_days),
            removal_policy=RemovalPolicy.DESTROY,
        )
        role = iam.Role(
            self, "Role", assumed_by=iam.ServicePrincipal("codebuild.amazonaws.com"), description="Copies models"
        )
        for statement in (artifact.read_policy(), *_permissions(self, settings, state, group)):
            role.add_to_policy(statement)
        phases = {phase: {"commands": commands} for phase, commands in build_commands(artifact).items()}
        self.project = codebuild.CfnProject(
            self,
            "Project",
            name=name,
            description=f"Synkti {settings.cluster}: copies a model from a hub into the models bucket",
            service_role=role.role_arn,
            source=codebuild.CfnProject.SourceProperty(
                type="NO_SOURCE", build_spec=json.dumps({"version": "0.2", "phases": phases})
            ),
            artifacts=codebuild.CfnProject.ArtifactsProperty(type="NO_ARTIFACTS"),
            environment=codebuild.CfnProject.EnvironmentProperty(
                type="LINUX_CONTAINER",
                image=BUILD_IMAGE,
                compute_type=BUILD_TYPE,
                environment_variables=[
                    codebuild.CfnProject.EnvironmentVariableProperty(name=variable, value=value)
                    for variable, value in _variables(settings, state).items()
                ],
            ),
            logs_config=codebuild.CfnProject.LogsConfigProperty(
                cloud_watch_logs=codebuild.CfnProject.CloudWatchLogsConfigProperty(
                    status="ENABLED", group_name=group.log_group_name
                )
            ),
            timeout_in_minutes=BUILD_MINUTES,
            queued_timeout_in_minutes=30,
        )
        self.project.node.add_dependency(role)  # and on its policy: a build may start as soon as the project exists


def _variables(settings: FleetSettings, state: StateStack) -> dict[str, str]:
    variables = {
        env.MODELS_BUCKET: state.models.bucket_name,
        env.INSTANCE_TYPES: ",".join(settings.instance_types),
        env.ENGINE_ARGS: json.dumps(settings.engine_args),
    }
    return variables | ({env.HUB_TOKEN_SECRET: settings.hub_token_secret} if settings.hub_token_secret else {})


def _permissions(
    scope: Construct, settings: FleetSettings, state: StateStack, group: logs.ILogGroup
) -> list[iam.PolicyStatement]:
    found = [
        iam.PolicyStatement(
            sid="CopyModels",
            actions=["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"],
            resources=[state.models.arn_for_objects(_MODELS)],
        ),
        iam.PolicyStatement(
            sid="ListModels",
            actions=["s3:ListBucket"],
            resources=[state.models.bucket_arn],
            conditions={"StringLike": {"s3:prefix": [_MODELS]}},
        ),
        iam.PolicyStatement(
            sid="WriteLogs",
            # CodeBuild creates its group, even one that is there.
            actions=["logs:CreateLogGroup", "logs:CreateLogStream", "logs:PutLogEvents"],
            resources=[group.log_group_arn],
        ),
    ]
    if settings.hub_token_secret:
        # Secrets Manager ends a secret's ARN with six characters of its own.
        secret = Stack.of(scope).format_arn(
            service="secretsmanager",
            resource="secret",
            resource_name=f"{settings.hub_token_secret}-??????",
            arn_format=ArnFormat.COLON_RESOURCE_NAME,
        )
        found.append(
            iam.PolicyStatement(sid="ReadToken", actions=["secretsmanager:GetSecretValue"], resources=[secret])
        )
    return found
