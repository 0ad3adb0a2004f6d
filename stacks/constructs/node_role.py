"""What a node may do; docs/security.md has the table, and a test holds the two together."""

from __future__ import annotations

from aws_cdk import Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs
from constructs import Construct

from node_agent.contract import names
from node_agent.contract.models import model_prefix
from node_agent.contract.tags import CLUSTER_TAG, NODE_TAGS
from stacks.constructs.artifact import Artifact
from stacks.settings import FleetSettings
from stacks.state_stack import StateStack


class NodeRole(Construct):
    """`role`, for the nodes' instance profile."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        settings: FleetSettings,
        state: StateStack,
        artifact: Artifact,
        log_group: logs.ILogGroup,
    ) -> None:
        super().__init__(scope, construct_id)
        self.role = iam.Role(
            self, "Role", assumed_by=iam.ServicePrincipal("ec2.amazonaws.com"), description="A node of the fleet"
        )
        statements = (*_ec2(self, settings), *_state(settings, state), artifact.reading(), *_telling(log_group))
        for statement in (*statements, _session()):
            self.role.add_to_policy(statement)


def _ec2(scope: Construct, settings: FleetSettings) -> tuple[iam.PolicyStatement, ...]:
    stack = Stack.of(scope)
    instances = stack.format_arn(service="ec2", resource="instance", resource_name="*")
    return (
        # DescribeInstances knows no resources: it is all or nothing, and it only reads.
        iam.PolicyStatement(sid="SeePeers", actions=["ec2:DescribeInstances"], resources=["*"]),
        iam.PolicyStatement(
            sid="TagItself",
            actions=["ec2:CreateTags", "ec2:DeleteTags"],
            resources=[instances],
            conditions={
                # The role's session is named after its instance, so a node can name no other.
                "StringLike": {"aws:userid": "*:${ec2:InstanceID}"},
                "StringEquals": {f"ec2:ResourceTag/{CLUSTER_TAG}": settings.cluster},
                "ForAllValues:StringEquals": {"aws:TagKeys": [CLUSTER_TAG, *NODE_TAGS]},
            },
        ),
        iam.PolicyStatement(
            sid="TellItsGroup",
            actions=["autoscaling:CompleteLifecycleAction"],
            resources=[group_arn(stack, settings.cluster)],
        ),
    )


def group_arn(stack: Stack, cluster: str) -> str:
    """The group's ARN has an id that only AWS knows, and the name that was chosen."""
    name = names.auto_scaling_group_name(cluster)
    return stack.format_arn(service="autoscaling", resource=f"autoScalingGroup:*:autoScalingGroupName/{name}")


def _state(settings: FleetSettings, state: StateStack) -> tuple[iam.PolicyStatement, ...]:
    model = model_prefix(settings.model)
    return (
        iam.PolicyStatement(
            sid="Records",
            actions=["dynamodb:GetItem", "dynamodb:PutItem", "dynamodb:UpdateItem"],
            resources=[state.table.table_arn],
        ),
        iam.PolicyStatement(
            sid="ReadModel", actions=["s3:GetObject"], resources=[state.models.arn_for_objects(f"{model}*")]
        ),
        iam.PolicyStatement(
            sid="ListModel",
            actions=["s3:ListBucket"],
            resources=[state.models.bucket_arn],
            conditions={"StringLike": {"s3:prefix": [model, f"{model}*"]}},
        ),
        iam.PolicyStatement(
            sid="Checkpoints",
            actions=["s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload"],
            resources=[state.checkpoints.arn_for_objects("*")],
        ),
        iam.PolicyStatement(
            sid="PeersKey", actions=["secretsmanager:GetSecretValue"], resources=[state.cluster_key.secret_arn]
        ),
    )


def _telling(log_group: logs.ILogGroup) -> tuple[iam.PolicyStatement, ...]:
    return (
        iam.PolicyStatement(
            sid="WriteLogs",
            actions=["logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"],
            resources=[log_group.log_group_arn],
        ),
        iam.PolicyStatement(
            sid="WriteMetrics",
            actions=["cloudwatch:PutMetricData"],
            resources=["*"],
            conditions={"StringEquals": {"cloudwatch:namespace": names.METRICS_NAMESPACE}},
        ),
    )


def _session() -> iam.PolicyStatement:
    """A shell through Session Manager, in the place of an open port 22; none of these knows resources."""
    return iam.PolicyStatement(
        sid="SessionManager",
        actions=[
            "ssm:UpdateInstanceInformation",
            "ssmmessages:CreateControlChannel",
            "ssmmessages:CreateDataChannel",
            "ssmmessages:OpenControlChannel",
            "ssmmessages:OpenDataChannel",
        ],
        resources=["*"],
    )
