"""The custom resource by which a deployment fetches its model: a Lambda starts a build, which responds when it is done.

CloudFormation waits for the response, so that no node is created before its model is there.
"""

from __future__ import annotations

from aws_cdk import CustomResource, Duration, Stack
from aws_cdk import aws_codebuild as codebuild
from aws_cdk import aws_iam as iam
from constructs import Construct

from node_agent.contract import environment as env
from node_agent.contract import names
from stacks.constructs.custom_function import CustomFunction
from stacks.constructs.lambda_package import Code
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
        project_arn = Stack.of(self).format_arn(
            service="codebuild", resource="project", resource_name=names.model_project_name(settings.cluster)
        )
        start = iam.PolicyStatement(sid="StartBuild", actions=["codebuild:StartBuild"], resources=[project_arn])
        function = CustomFunction(
            self,
            "Starter",
            settings,
            handler=HANDLER,
            code=code,
            environment={env.HUB_PROJECT: project.ref},
            permissions=[start],
        ).function
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
