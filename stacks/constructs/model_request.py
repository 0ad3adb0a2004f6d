"""The custom resource by which a deployment fetches its model: a Lambda starts a build, which responds when it is done.

CloudFormation waits for the response, so that no node is created before its model is there.
"""

from __future__ import annotations

from aws_cdk import CustomResource, Duration, RemovalPolicy, Stack
from aws_cdk import aws_codebuild as codebuild
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from constructs import Construct

from node_agent.contract import environment as env
from node_agent.contract import names
from stacks.constructs.lambda_package import Code
from stacks.constructs.retention import retention
from stacks.settings import FleetSettings

HANDLER = "model_requested"
RESOURCE_TYPE = "Custom::SynktiModel"
WAIT = Duration.hours(1)
"""CloudFormation's limit for a custom resource."""


class ModelRequest(Construct):
    """The custom resource, and the Lambda that CloudFormation invokes for it."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        settings: FleetSettings,
        *,
        project: codebuild.CfnProject,
        code: Code,
    ) -> None:
        super().__init__(scope, construct_id)
        function = self._function(settings, project, code)
        resource = CustomResource(
            self,
            "Model",
            service_token=function.function_arn,
            resource_type=RESOURCE_TYPE,
            service_timeout=WAIT,
            # A change of one of these starts a build again; a model that is there already is not copied again.
            properties={"Name": settings.model, "Source": settings.model_source},
        )
        resource.node.add_dependency(project)

    def _function(self, settings: FleetSettings, project: codebuild.CfnProject, code: Code) -> lambda_.Function:
        name = names.function_name(settings.cluster, HANDLER)
        role = iam.Role(self, "Role", assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"))
        group = logs.LogGroup(
            self,
            "Logs",
            log_group_name=f"/aws/lambda/{name}",
            retention=retention(settings.log_days),
            removal_policy=RemovalPolicy.DESTROY,
        )
        group.grant_write(role)
        project_arn = Stack.of(self).format_arn(
            service="codebuild", resource="project", resource_name=names.model_project_name(settings.cluster)
        )
        role.add_to_policy(
            iam.PolicyStatement(sid="StartBuild", actions=["codebuild:StartBuild"], resources=[project_arn])
        )
        return lambda_.Function(
            self,
            "Function",
            function_name=name,
            runtime=lambda_.Runtime.PYTHON_3_13,
            architecture=lambda_.Architecture.ARM_64,
            handler=f"lambdas.handlers.{HANDLER}.handler",
            code=code.package,
            layers=list(code.layers),
            role=role,
            log_group=group,
            memory_size=256,
            timeout=Duration.seconds(60),
            tracing=lambda_.Tracing.ACTIVE,
            environment={"POWERTOOLS_SERVICE_NAME": "synkti", env.HUB_PROJECT: project.ref},
        )
