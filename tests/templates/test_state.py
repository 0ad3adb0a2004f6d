"""The stack of state that outlives every node, and its protection from mistakes."""

from __future__ import annotations

import json

from checks.assemblies import Synthesized
from node_agent.contract.models import OLD_VERSION_DAYS
from node_agent.contract.names import client_keys_secret_name, cluster_key_secret_name, table_name
from node_agent.contract.open_streams import OpenStreams
from node_agent.contract.ownership import CHANGED_ATTRIBUTE, STATUS_ATTRIBUTE, STATUS_INDEX
from node_agent.contract.states import NodeState
from node_agent.contract.table_schema import NodeRecord
from node_agent.core.access.key_document import parse_key_document


def test_the_table_has_deletion_protection_and_point_in_time_recovery(production: Synthesized) -> None:
    table = production.only("AWS::DynamoDB::Table")
    assert table["TableName"] == table_name("synkti")
    assert table["BillingMode"] == "PAY_PER_REQUEST"
    assert table["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}
    assert table["TimeToLiveSpecification"] == {"AttributeName": "expires_at", "Enabled": True}
    assert table["DeletionProtectionEnabled"] is True
    assert [key["AttributeName"] for key in table["KeySchema"]] == ["pk", "sk"]


def test_the_table_has_an_index_of_streams_by_status_only(production: Synthesized) -> None:
    table = production.only("AWS::DynamoDB::Table")
    (index,) = table["GlobalSecondaryIndexes"]
    assert index["IndexName"] == STATUS_INDEX
    assert [(key["AttributeName"], key["KeyType"]) for key in index["KeySchema"]] == [
        ("stream_status", "HASH"),
        ("changed_ms", "RANGE"),
    ]
    assert index["Projection"] == {"ProjectionType": "ALL"}
    # Nodes' records and the rows of idempotency lack a key of it, and are not in it.
    assert {CHANGED_ATTRIBUTE, STATUS_ATTRIBUTE}.isdisjoint(NodeRecord("i", "z", "t", NodeState.READY, 1, 2).to_item())
    assert STATUS_ATTRIBUTE not in OpenStreams("i", 1, (), 2).to_item()


def test_the_clients_keys_are_retained_and_begin_as_a_document_without_keys(production: Synthesized) -> None:
    secrets = production.resources("AWS::SecretsManager::Secret")
    keys = next(secret for name, secret in secrets.items() if name.startswith("ClientKeys"))
    assert keys["DeletionPolicy"] == "Retain"
    assert keys["Properties"]["Name"] == client_keys_secret_name("synkti")
    generated = keys["Properties"]["GenerateSecretString"]
    assert generated["GenerateStringKey"] == "pepper"
    assert "SecretString" not in keys["Properties"], "no pepper is in a template"
    # What Secrets Manager does with it: adds the generated text under that key.
    document = {**json.loads(generated["SecretStringTemplate"]), "pepper": "A" * generated["PasswordLength"]}
    assert parse_key_document(json.dumps(document).encode()).keys == ()
    assert generated["ExcludePunctuation"] is True


def test_a_node_reads_the_clients_keys_and_no_role_writes_them(production: Synthesized) -> None:
    statements = [
        (name, statement)
        for name, policy in production.resources("AWS::IAM::Policy").items()
        for statement in policy["Properties"]["PolicyDocument"]["Statement"]
        if "ClientKeys" in json.dumps(statement["Resource"])
    ]
    ((name, statement),) = statements
    assert name.startswith("NodeRole")
    assert statement["Action"] == "secretsmanager:GetSecretValue"


def test_the_models_bucket_is_retained_and_checkpoints_expire(production: Synthesized) -> None:
    buckets = production.resources("AWS::S3::Bucket")
    models = next(bucket for name, bucket in buckets.items() if name.startswith("Models"))
    checkpoints = next(bucket for name, bucket in buckets.items() if name.startswith("Checkpoints"))
    assert (models["DeletionPolicy"], checkpoints["DeletionPolicy"]) == ("Retain", "Delete")
    assert models["Properties"]["VersioningConfiguration"] == {"Status": "Enabled"}
    days = [rule.get("ExpirationInDays") for rule in checkpoints["Properties"]["LifecycleConfiguration"]["Rules"]]
    assert 7 in days
    rules = checkpoints["Properties"]["LifecycleConfiguration"]["Rules"]
    short = {rule["Prefix"]: rule["ExpirationInDays"] for rule in rules if "Prefix" in rule}
    assert short == {"journals/": 1, "kv/": 1}, "prompts and answers expire after the shortest time that S3 supports"
    assert len(buckets) == 2


def test_a_bucket_with_versions_forgets_the_old_ones(production: Synthesized) -> None:
    """Otherwise a model that was overwritten or removed is paid for forever, though nothing shows it."""
    versioned = [
        bucket["Properties"]
        for bucket in production.resources("AWS::S3::Bucket").values()
        if bucket["Properties"].get("VersioningConfiguration") == {"Status": "Enabled"}
    ]
    assert versioned
    for properties in versioned:
        every = properties["LifecycleConfiguration"]["Rules"]
        caches, rules = [r for r in every if "Prefix" in r], [r for r in every if "Prefix" not in r]
        assert all(rule["Status"] == "Enabled" for rule in every)
        assert [(rule["Prefix"], rule["ExpirationInDays"]) for rule in caches] == [("bin/caches/", 30)]
        (forget,) = [rule for rule in rules if "NoncurrentVersionExpiration" in rule]
        assert forget["NoncurrentVersionExpiration"] == {"NoncurrentDays": OLD_VERSION_DAYS}
        assert forget["ExpiredObjectDeleteMarker"] is True
        assert not any("ExpirationInDays" in rule for rule in rules), "what is current stays"


def test_buckets_are_encrypted_and_private_and_abort_incomplete_uploads(production: Synthesized) -> None:
    for bucket in production.resources("AWS::S3::Bucket").values():
        properties = bucket["Properties"]
        assert all(properties["PublicAccessBlockConfiguration"].values())
        encryption = properties["BucketEncryption"]["ServerSideEncryptionConfiguration"][0]
        assert encryption["ServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"
        rules = properties["LifecycleConfiguration"]["Rules"]
        assert {"DaysAfterInitiation": 1} in [rule.get("AbortIncompleteMultipartUpload") for rule in rules]
    for policy in production.resources("AWS::S3::BucketPolicy").values():
        denied = [s for s in policy["Properties"]["PolicyDocument"]["Statement"] if s["Effect"] == "Deny"]
        assert {"Bool": {"aws:SecureTransport": "false"}} in [statement["Condition"] for statement in denied]


def test_the_cluster_key_is_generated_by_secrets_manager_and_in_no_template(production: Synthesized) -> None:
    secrets = production.resources("AWS::SecretsManager::Secret")
    secret = next(each["Properties"] for name, each in secrets.items() if name.startswith("ClusterKey"))
    assert secret["Name"] == cluster_key_secret_name("synkti")
    assert "SecretString" not in secret
    assert secret["GenerateSecretString"]["PasswordLength"] == 64
