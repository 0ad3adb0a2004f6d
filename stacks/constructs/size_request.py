"""The custom resource by which a deployment sets the group's size, also where nothing else of the group has changed."""

from __future__ import annotations

from aws_cdk import CustomResource, Duration, Stack
from aws_cdk import aws_autoscaling as autoscaling
from aws_cdk import aws_iam as iam
from constructs import Construct

from node_agent.contract import environment as env
from node_agent.contract import names
from stacks.constructs.custom_function import CustomFunction
from stacks.constructs.lambda_package import Code
from stacks.constructs.node_role import group_arn
from stacks.settings import FleetSettings

HANDLER = "size_requested"
RESOURCE_TYPE = "Custom::SynktiSize"
_WAIT = Duration.minutes(10)
"""For the Lambda's repeats, which come after one and two minutes."""


class SizeRequest(Construct):
    """The custom resource, and the Lambda that CloudFormation invokes for it, after the group is updated."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        settings: FleetSettings,
        *,
        group: autoscaling.AutoScalingGroup,
        code: Code,
    ) -> None:
        super().__init__(scope, construct_id)
        # DescribeAutoScalingGroups has no resource-level permissions; it only reads.
        see = iam.PolicyStatement(sid="SeeGroup", actions=["autoscaling:DescribeAutoScalingGroups"], resources=["*"])
        resize = iam.PolicyStatement(
            sid="SetSize",
            actions=["autoscaling:UpdateAutoScalingGroup"],
            resources=[group_arn(Stack.of(self), settings.cluster)],
        )
        function = CustomFunction(
            self,
            "Setter",
            settings,
            handler=HANDLER,
            code=code,
            environment={env.GROUP: names.auto_scaling_group_name(settings.cluster)},
            permissions=[see, resize],
        ).function
        resource = CustomResource(
            self,
            "Size",
            service_token=function.function_arn,
            resource_type=RESOURCE_TYPE,
            service_timeout=_WAIT,
            properties={
                "Minimum": str(settings.min_capacity),
                "Maximum": str(settings.max_capacity),
                "Nodes": "" if settings.is_autoscaled else str(settings.nodes),
                # Of each deployment another one, where the size is to be compared each time.
                "Deployment": settings.deployment,
            },
        )
        resource.node.add_dependency(group)
