"""The stack of state that outlives every node, and its protection from mistakes."""

from __future__ import annotations

from checks.assemblies import Synthesized
from node_agent.contract.models import OLD_VERSION_DAYS
from node_agent.contract.names import cluster_key_secret_name, table_name


def test_the_table_has_deletion_protection_and_point_in_time_recovery(production: Synthesized) -> None:
    table = production.only("AWS::DynamoDB::Table")
    assert table["TableName"] == table_name("synkti")
    assert table["BillingMode"] == "PAY_PER_REQUEST"
    assert table["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}
    assert table["TimeToLiveSpecification"] == {"AttributeName": "expires_at", "Enabled": True}
    assert table["DeletionProtectionEnabled"] is True
    assert [key["AttributeName"] for key in table["KeySchema"]] == ["pk", "sk"]


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
    secret = production.only("AWS::SecretsManager::Secret")
    assert secret["Name"] == cluster_key_secret_name("synkti")
    assert "SecretString" not in secret
    assert secret["GenerateSecretString"]["PasswordLength"] == 64
