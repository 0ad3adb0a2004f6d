"""A Lambda that CloudFormation invokes for a custom resource. A lost request fails the deployment, which waits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aws_cdk import Duration, RemovalPolicy
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from constructs import Construct

from node_agent.contract import names
from stacks.constructs.lambda_package import Code
from stacks.constructs.retention import retention
from stacks.settings import FleetSettings


class CustomFunction(Construct):
    """The Lambda (`function`). handler: the module's name in lambdas/handlers."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        settings: FleetSettings,
        *,
        handler: str,
        code: Code,
        environment: Mapping[str, str],
        permissions: Sequence[iam.PolicyStatement],
    ) -> None:
        super().__init__(scope, construct_id)
        name = names.function_name(settings.cluster, handler)
        role = iam.Role(self, "Role", assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"))
        group = logs.LogGroup(
            self,
            "Logs",
            log_group_name=f"/aws/lambda/{name}",
            retention=retention(settings.log_days),
            removal_policy=RemovalPolicy.DESTROY,
        )
        group.grant_write(role)
        for statement in permissions:
            role.add_to_policy(statement)
        self.function = lambda_.Function(
            self,
            "Function",
            function_name=name,
            runtime=lambda_.Runtime.PYTHON_3_13,
            architecture=lambda_.Architecture.ARM_64,
            handler=f"lambdas.handlers.{handler}.handler",
            code=code.package,
            layers=list(code.layers),
            role=role,
            log_group=group,
            memory_size=256,
            timeout=Duration.seconds(60),
            tracing=lambda_.Tracing.ACTIVE,
            environment={"POWERTOOLS_SERVICE_NAME": "synkti", **environment},
        )
        self.function.node.add_dependency(role)  # and on its policy: CloudFormation invokes it at once
