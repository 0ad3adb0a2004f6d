"""A Lambda that CloudFormation invokes for a custom resource. A lost request fails the deployment, which waits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aws_cdk import aws_iam as iam
from constructs import Construct

from stacks.constructs.handler_function import handler_function
from stacks.constructs.lambda_package import Code
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
        self.function = handler_function(
            self, settings, handler, code, environment=environment, permissions=permissions, timeout_s=60
        )
        if (role := self.function.role) is not None:
            self.function.node.add_dependency(role)  # and on its policy: CloudFormation invokes it at once
