"""What a node may do: tag itself, see its peers, read the model and the peers' key, write records and checkpoints."""

from __future__ import annotations

from aws_cdk import Stack
from aws_cdk import aws_iam as iam
from constructs import Construct

from node_agent.contract.tags import CLUSTER_TAG, NODE_TAGS
from stacks.settings import FleetSettings
from stacks.state_stack import StateStack


class NodeRole(Construct):
    """`role`, for the nodes' instance profile."""

    def __init__(self, scope: Construct, construct_id: str, settings: FleetSettings, state: StateStack) -> None:
        super().__init__(scope, construct_id)
        self.role = iam.Role(
            self, "Role", assumed_by=iam.ServicePrincipal("ec2.amazonaws.com"), description="A node of the fleet"
        )
        for statement in (*_ec2(self, settings), *_state(state)):
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
    )


def _state(state: StateStack) -> tuple[iam.PolicyStatement, ...]:
    return (
        iam.PolicyStatement(
            sid="Records",
            actions=["dynamodb:GetItem", "dynamodb:PutItem", "dynamodb:UpdateItem"],
            resources=[state.table.table_arn],
        ),
        iam.PolicyStatement(
            sid="ReadModels",
            actions=["s3:GetObject"],
            resources=[state.models.arn_for_objects("bin/*"), state.models.arn_for_objects("models/*")],
        ),
        iam.PolicyStatement(sid="ListModels", actions=["s3:ListBucket"], resources=[state.models.bucket_arn]),
        iam.PolicyStatement(
            sid="Checkpoints",
            actions=["s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload"],
            resources=[state.checkpoints.arn_for_objects("*")],
        ),
        iam.PolicyStatement(
            sid="PeersKey", actions=["secretsmanager:GetSecretValue"], resources=[state.cluster_key.secret_arn]
        ),
    )
