"""The nodes' IAM role. docs/security.md has a table of its permissions; a test compares the two."""

from __future__ import annotations

from aws_cdk import Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs
from constructs import Construct

from node_agent.contract import names
from node_agent.contract.launch_breaker import GAVE_UP_EVENT
from node_agent.contract.models import model_prefix
from node_agent.contract.tags import CLUSTER_TAG, NODE_TAGS
from node_agent.contract.wheelhouse import PREFIX as WHEELS_PREFIX
from stacks.constructs.artifact import Artifact
from stacks.settings import FleetSettings
from stacks.state_stack import StateStack


class NodeRole(Construct):
    """The role of the nodes' instance profile (`role`)."""

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
        statements = (
            *_ec2_statements(self, settings),
            *_state_statements(settings, state),
            artifact.read_policy(),
            *_log_statements(log_group),
        )
        for statement in (*statements, _session_statement()):
            self.role.add_to_policy(statement)


def _ec2_statements(scope: Construct, settings: FleetSettings) -> tuple[iam.PolicyStatement, ...]:
    stack = Stack.of(scope)
    instances = stack.format_arn(service="ec2", resource="instance", resource_name="*")
    return (
        # DescribeInstances has no resource-level permissions; it only reads.
        iam.PolicyStatement(sid="SeePeers", actions=["ec2:DescribeInstances"], resources=["*"]),
        iam.PolicyStatement(
            sid="TagItself",
            actions=["ec2:CreateTags", "ec2:DeleteTags"],
            resources=[instances],
            conditions={
                # The role's session is named after its instance, so a node can tag no other.
                "StringLike": {"aws:userid": "*:${ec2:InstanceID}"},
                "StringEquals": {f"ec2:ResourceTag/{CLUSTER_TAG}": settings.cluster},
                "ForAllValues:StringEquals": {"aws:TagKeys": [CLUSTER_TAG, *NODE_TAGS]},
                # ForAllValues is true of no keys, too, and DeleteTags without keys deletes every tag.
                "Null": {"aws:TagKeys": "false"},
            },
        ),
        iam.PolicyStatement(
            sid="GiveUp",
            actions=["events:PutEvents"],
            resources=[stack.format_arn(service="events", resource="event-bus", resource_name="default")],
            conditions={
                "StringEquals": {
                    "events:source": names.NODE_EVENT_SOURCE,
                    "events:detail-type": GAVE_UP_EVENT,
                }
            },
        ),
        iam.PolicyStatement(
            sid="TellItsGroup",
            actions=["autoscaling:CompleteLifecycleAction"],
            resources=[group_arn(stack, settings.cluster)],
        ),
    )


def group_arn(stack: Stack, cluster: str) -> str:
    """Return a pattern of the group's ARN, which contains an id that AWS chooses and the group's name."""
    name = names.auto_scaling_group_name(cluster)
    return stack.format_arn(service="autoscaling", resource=f"autoScalingGroup:*:autoScalingGroupName/{name}")


def _state_statements(settings: FleetSettings, state: StateStack) -> tuple[iam.PolicyStatement, ...]:
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
        *wheelhouse_policies(state),
        *(_cache_policies(state) if settings.compile_caches else ()),
        iam.PolicyStatement(
            sid="Checkpoints",
            actions=["s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload"],
            resources=[state.checkpoints.arn_for_objects("*")],
        ),
        iam.PolicyStatement(
            sid="PeersKey", actions=["secretsmanager:GetSecretValue"], resources=[state.cluster_key.secret_arn]
        ),
        *(_client_key_policies(state) if settings.api_keys else ()),
    )


def _client_key_policies(state: StateStack) -> tuple[iam.PolicyStatement, ...]:
    """Return a statement that allows reading the hashes of clients' keys."""
    return (
        iam.PolicyStatement(
            sid="ClientKeys", actions=["secretsmanager:GetSecretValue"], resources=[state.client_keys.secret_arn]
        ),
    )


def wheelhouse_policies(state: StateStack) -> tuple[iam.PolicyStatement, ...]:
    """Return statements that allow installing packages from the wheelhouse."""
    return (
        iam.PolicyStatement(
            sid="ReadPackages", actions=["s3:GetObject"], resources=[state.models.arn_for_objects(f"{WHEELS_PREFIX}*")]
        ),
        iam.PolicyStatement(
            sid="ListPackages",
            actions=["s3:ListBucket"],
            resources=[state.models.bucket_arn],
            conditions={"StringLike": {"s3:prefix": [f"{WHEELS_PREFIX}*"]}},
        ),
    )


def _cache_policies(state: StateStack) -> tuple[iam.PolicyStatement, ...]:
    """Return statements that allow reading compiled kernels, and storing them where there are none yet."""
    caches = state.models.arn_for_objects(f"{names.CACHES_PREFIX}*")
    return (
        iam.PolicyStatement(sid="ReadKernels", actions=["s3:GetObject"], resources=[caches]),
        iam.PolicyStatement(
            sid="StoreKernels",
            actions=["s3:PutObject"],
            resources=[caches],
            # Only a write that fails where the object exists: no node replaces what another one has stored.
            conditions={"Null": {"s3:if-none-match": "false"}},
        ),
    )


def _log_statements(log_group: logs.ILogGroup) -> tuple[iam.PolicyStatement, ...]:
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


def _session_statement() -> iam.PolicyStatement:
    """Allow shells through Session Manager instead of SSH. The actions have no resource-level permissions."""
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
