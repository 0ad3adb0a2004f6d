"""An AWS in memory for the Lambdas: moto, with the table as the stacks make it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from moto import mock_aws

from node_agent.contract.names import table_name
from node_agent.contract.ownership import CHANGED_ATTRIBUTE, STATUS_ATTRIBUTE, STATUS_INDEX
from node_agent.contract.table_schema import PARTITION_KEY, SORT_KEY

REGION = "us-east-1"


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    values = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "SYNKTI_CLUSTER": "synkti",
        "SYNKTI_TABLE": table_name("synkti"),
        "POWERTOOLS_METRICS_NAMESPACE": "Synkti",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws():
        yield


@pytest.fixture
def table(aws: None) -> Any:
    keys = ((PARTITION_KEY, "HASH"), (SORT_KEY, "RANGE"))
    schema: Any = [{"AttributeName": name, "KeyType": kind} for name, kind in keys]
    kinds = {PARTITION_KEY: "S", SORT_KEY: "S", STATUS_ATTRIBUTE: "S", CHANGED_ATTRIBUTE: "N"}
    attributes: Any = [{"AttributeName": name, "AttributeType": kind} for name, kind in kinds.items()]
    return boto3.resource("dynamodb").create_table(
        TableName=table_name("synkti"),
        KeySchema=schema,
        AttributeDefinitions=attributes,
        GlobalSecondaryIndexes=[
            {
                "IndexName": STATUS_INDEX,
                "KeySchema": [
                    {"AttributeName": STATUS_ATTRIBUTE, "KeyType": "HASH"},
                    {"AttributeName": CHANGED_ATTRIBUTE, "KeyType": "RANGE"},
                ],
                "Projection": {"ProjectionType": "ALL"},
            }
        ],
        BillingMode="PAY_PER_REQUEST",
    )


@pytest.fixture
def run_instance(aws: None) -> Any:
    """Start an instance with these tags; its id."""

    def run(tags: dict[str, str]) -> str:
        specification: Any = {"ResourceType": "instance", "Tags": [{"Key": k, "Value": v} for k, v in tags.items()]}
        answer = boto3.client("ec2").run_instances(
            ImageId="ami-12c6146b",
            MinCount=1,
            MaxCount=1,
            InstanceType="g5.xlarge",
            TagSpecifications=[specification],
        )
        return answer["Instances"][0]["InstanceId"]

    return run
