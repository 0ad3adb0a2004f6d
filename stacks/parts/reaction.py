"""A reaction: one kind of EC2 event, the Lambda that it triggers, and everything that notices when that fails.

EventBridge retries for up to two hours (an older interruption has no use), then the queue keeps the event; the alarm
looks at the queue and at the function's errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aws_cdk import Duration, RemovalPolicy, Stack
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from node_agent.contract import names
from node_agent.contract.tags import CLUSTER_TAG, NODE_TAGS
from stacks.settings import FleetSettings
from stacks.state_stack import StateStack

RETRY_HOURS = 2
RETRY_ATTEMPTS = 20


@dataclass(frozen=True)
class Code:
    """What all handlers share: the package, and the layers that it needs."""

    package: lambda_.Code
    layers: Sequence[lambda_.ILayerVersion]


class Reaction(Construct):
    """handler: the module's name in lambdas/handlers; detail_type: of the event; sources: who may send it."""

    def __init__(
        self,
        scope: Construct,
        handler: str,
        detail_type: str,
        sources: Sequence[str],
        *,
        settings: FleetSettings,
        state: StateStack,
        code: Code,
    ) -> None:
        super().__init__(scope, handler)
        self.queue = sqs.Queue(
            self,
            "DeadLetters",
            enforce_ssl=True,
            encryption=sqs.QueueEncryption.SQS_MANAGED,
            retention_period=Duration.days(14),
        )
        self.function = self._function(handler, settings, state, code)
        events.Rule(
            self,
            "Rule",
            description=f"{detail_type} -> {handler}",
            event_pattern=events.EventPattern(source=list(sources), detail_type=[detail_type]),
            targets=[
                targets.LambdaFunction(
                    self.function,
                    dead_letter_queue=self.queue,
                    max_event_age=Duration.hours(RETRY_HOURS),
                    retry_attempts=RETRY_ATTEMPTS,
                )
            ],
        )
        self._alarm("Errors", self.function.metric_errors(period=Duration.minutes(5)), f"{handler} fails")
        letters = self.queue.metric_approximate_number_of_messages_visible(period=Duration.minutes(5))
        self._alarm("Letters", letters, f"events that {handler} could not handle")

    def _function(self, handler: str, settings: FleetSettings, state: StateStack, code: Code) -> lambda_.Function:
        name = names.function_name(settings.cluster, handler)
        role = iam.Role(self, "Role", assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"))
        group = logs.LogGroup(
            self,
            "Logs",
            log_group_name=f"/aws/lambda/{name}",
            retention=logs.RetentionDays.ONE_MONTH,
            removal_policy=RemovalPolicy.DESTROY,
        )
        group.grant_write(role)
        function = lambda_.Function(
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
            timeout=Duration.seconds(20),
            retry_attempts=2,
            tracing=lambda_.Tracing.ACTIVE,
            dead_letter_queue=self.queue,
            environment={
                "SYNKTI_CLUSTER": settings.cluster,
                "SYNKTI_TABLE": state.table.table_name,
                "POWERTOOLS_SERVICE_NAME": "synkti",
            },
        )
        for statement in _permissions(self, settings, state):
            role.add_to_policy(statement)
        return function

    def _alarm(self, construct_id: str, metric: cloudwatch.IMetric, description: str) -> None:
        cloudwatch.Alarm(
            self,
            construct_id,
            metric=metric,
            threshold=0,
            comparison_operator=cloudwatch.ComparisonOperator.GREATER_THAN_THRESHOLD,
            evaluation_periods=1,
            treat_missing_data=cloudwatch.TreatMissingData.NOT_BREACHING,
            alarm_description=f"Synkti: {description}",
        )


def _permissions(scope: Construct, settings: FleetSettings, state: StateStack) -> tuple[iam.PolicyStatement, ...]:
    instances = Stack.of(scope).format_arn(service="ec2", resource="instance", resource_name="*")
    return (
        iam.PolicyStatement(sid="FindInstance", actions=["ec2:DescribeInstances"], resources=["*"]),
        iam.PolicyStatement(
            sid="TagNodes",
            actions=["ec2:CreateTags"],
            resources=[instances],
            conditions={
                "StringEquals": {f"ec2:ResourceTag/{CLUSTER_TAG}": settings.cluster},
                "ForAllValues:StringEquals": {"aws:TagKeys": [CLUSTER_TAG, *NODE_TAGS]},
            },
        ),
        iam.PolicyStatement(
            sid="Records",
            # DeleteItem: the row of an idempotent call that failed, so that its retry is not taken for a repeat.
            actions=["dynamodb:GetItem", "dynamodb:PutItem", "dynamodb:UpdateItem", "dynamodb:DeleteItem"],
            resources=[state.table.table_arn],
        ),
    )
