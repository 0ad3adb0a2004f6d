"""The Lambda of one handler, with a role and a log of its own: what those for events and for deployments share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aws_cdk import Duration, RemovalPolicy
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from constructs import Construct

from node_agent.contract import names
from stacks.constructs.lambda_package import Code
from stacks.constructs.retention import retention
from stacks.settings import FleetSettings


def handler_function(
    scope: Construct,
    settings: FleetSettings,
    handler: str,
    code: Code,
    *,
    environment: Mapping[str, str],
    permissions: Sequence[iam.PolicyStatement],
    timeout_s: int,
    memory_mib: int = 256,
    **more: Any,
) -> lambda_.Function:
    """Create the function of a handler.

    Args:
        scope: gets the function, its role and its log group.
        settings: of the fleet.
        handler: the module's name in lambdas/handlers.
        code: the package that all handlers share.
        environment: variables in addition to Powertools' own.
        permissions: of the role, in addition to its log.
        timeout_s: of one invocation, in seconds.
        memory_mib: Lambda gives CPU in proportion to it.
        more: further properties of the function.

    Returns:
        The function.
    """
    name = names.function_name(settings.cluster, handler)
    role = iam.Role(scope, "Role", assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"))
    group = logs.LogGroup(
        scope,
        "Logs",
        log_group_name=f"/aws/lambda/{name}",
        retention=retention(settings.log_days),
        removal_policy=RemovalPolicy.DESTROY,
    )
    group.grant_write(role)
    for statement in permissions:
        role.add_to_policy(statement)
    return lambda_.Function(
        scope,
        "Function",
        function_name=name,
        runtime=lambda_.Runtime.PYTHON_3_13,
        architecture=lambda_.Architecture.ARM_64,
        handler=f"lambdas.handlers.{handler}.handler",
        code=code.package,
        layers=list(code.layers),
        role=role,
        log_group=group,
        memory_size=memory_mib,
        timeout=Duration.seconds(timeout_s),
        tracing=lambda_.Tracing.ACTIVE,
        environment={"POWERTOOLS_SERVICE_NAME": names.METRICS_SERVICE, **environment},
        **more,
    )
