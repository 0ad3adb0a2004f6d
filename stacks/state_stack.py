"""The state stack: the table, the buckets, the key that peers share, and clients' keys. It outlives every node."""

from __future__ import annotations

import json

from aws_cdk import Aws, CfnOutput, Duration, RemovalPolicy
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_secretsmanager as secretsmanager
from constructs import Construct

from node_agent.contract import names
from node_agent.contract.client_keys import VERSION
from node_agent.contract.models import OLD_VERSION_DAYS
from node_agent.contract.ownership import CHANGED_ATTRIBUTE, STATUS_ATTRIBUTE, STATUS_INDEX
from node_agent.contract.table_schema import PARTITION_KEY, SORT_KEY, TTL_ATTRIBUTE
from stacks.base_stack import BaseStack
from stacks.settings import FleetSettings

_CHECKPOINT_LIFE_DAYS = 7
_CACHE_LIFE_DAYS = 30
"""Of compiled kernels; the next node that starts compiles them again."""

_CONTEXT_LIFE_DAYS = 1
"""The shortest expiry of S3. Records expire after an hour, and objects without a record are not read."""


class StateStack(BaseStack):
    """Created first, deleted last."""

    def __init__(self, scope: Construct, settings: FleetSettings) -> None:
        super().__init__(scope, settings, "state", "what outlives nodes")
        self.table = self._table(settings)
        self.models = self._bucket(
            "Models", names.models_bucket_name(settings.cluster, Aws.ACCOUNT_ID, Aws.REGION), permanent=True
        )
        self.checkpoints = self._bucket(
            "Checkpoints", names.checkpoints_bucket_name(settings.cluster, Aws.ACCOUNT_ID, Aws.REGION), permanent=False
        )
        self.cluster_key = secretsmanager.Secret(
            self,
            "ClusterKey",
            secret_name=names.cluster_key_secret_name(settings.cluster),
            description="The key with which peers sign their messages",
            generate_secret_string=secretsmanager.SecretStringGenerator(password_length=64, exclude_punctuation=True),
            removal_policy=RemovalPolicy.DESTROY,
        )
        self.client_keys = self._client_keys(settings)
        CfnOutput(self, "TableName", value=self.table.table_name)
        CfnOutput(self, "ModelsBucket", value=self.models.bucket_name)
        CfnOutput(self, "CheckpointsBucket", value=self.checkpoints.bucket_name)
        CfnOutput(self, "ClusterKeySecret", value=names.cluster_key_secret_name(settings.cluster))
        CfnOutput(self, "ClientKeysSecret", value=names.client_keys_secret_name(settings.cluster))

    def _client_keys(self, settings: FleetSettings) -> secretsmanager.Secret:
        """Create the document of clients' keys: without keys, and with a pepper that only AWS has generated."""
        return secretsmanager.Secret(
            self,
            "ClientKeys",
            secret_name=names.client_keys_secret_name(settings.cluster),
            description="Clients' keys, as hashes; synkti keys edits them",
            generate_secret_string=secretsmanager.SecretStringGenerator(
                secret_string_template=json.dumps({"version": VERSION, "keys": []}),
                generate_string_key="pepper",
                password_length=64,
                exclude_punctuation=True,
            ),
            # Clients' keys stay valid for the next fleet of this name; on the embedded AWS they end with it.
            removal_policy=RemovalPolicy.DESTROY if settings.local else RemovalPolicy.RETAIN,
        )

    def _table(self, settings: FleetSettings) -> dynamodb.Table:
        table = dynamodb.Table(
            self,
            "Records",
            table_name=names.table_name(settings.cluster),
            partition_key=dynamodb.Attribute(name=PARTITION_KEY, type=dynamodb.AttributeType.STRING),
            sort_key=dynamodb.Attribute(name=SORT_KEY, type=dynamodb.AttributeType.STRING),
            billing_mode=dynamodb.BillingMode.PAY_PER_REQUEST,
            point_in_time_recovery_specification=dynamodb.PointInTimeRecoverySpecification(
                point_in_time_recovery_enabled=True
            ),
            time_to_live_attribute=TTL_ATTRIBUTE,
            # On the embedded AWS the table is deleted with it; on the real one only an operator deletes it.
            deletion_protection=not settings.local,
            removal_policy=RemovalPolicy.DESTROY if settings.local else RemovalPolicy.RETAIN,
        )
        # Only records of streams' ownership have both keys, so the index has nothing else, and costs nothing else.
        table.add_global_secondary_index(
            index_name=STATUS_INDEX,
            partition_key=dynamodb.Attribute(name=STATUS_ATTRIBUTE, type=dynamodb.AttributeType.STRING),
            sort_key=dynamodb.Attribute(name=CHANGED_ATTRIBUTE, type=dynamodb.AttributeType.NUMBER),
        )
        return table

    def _bucket(self, construct_id: str, name: str, *, permanent: bool) -> s3.Bucket:
        abort = s3.LifecycleRule(abort_incomplete_multipart_upload_after=Duration.days(1))
        # Without it each push and each removal of a model would be paid for forever.
        forget = s3.LifecycleRule(
            noncurrent_version_expiration=Duration.days(OLD_VERSION_DAYS), expired_object_delete_marker=True
        )
        expire = [
            s3.LifecycleRule(expiration=Duration.days(_CHECKPOINT_LIFE_DAYS)),
            *(
                s3.LifecycleRule(prefix=prefix, expiration=Duration.days(_CONTEXT_LIFE_DAYS))
                for prefix in (names.JOURNALS_PREFIX, names.KV_BLOCKS_PREFIX)
            ),
        ]
        caches = s3.LifecycleRule(
            prefix=names.CACHES_PREFIX,
            expiration=Duration.days(_CACHE_LIFE_DAYS),
            noncurrent_version_expiration=Duration.days(1),
        )
        return s3.Bucket(
            self,
            construct_id,
            bucket_name=name,
            encryption=s3.BucketEncryption.S3_MANAGED,
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            enforce_ssl=True,
            versioned=permanent,
            lifecycle_rules=[abort, forget, caches] if permanent else [abort, *expire],
            removal_policy=RemovalPolicy.RETAIN if permanent else RemovalPolicy.DESTROY,
        )
