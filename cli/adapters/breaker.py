"""Read the record of nodes that gave up, which the Lambdas write (node_agent/contract/launch_breaker)."""

from __future__ import annotations

from typing import Any

from boto3.dynamodb.types import TypeDeserializer
from botocore.exceptions import BotoCoreError, ClientError

from cli.aws_errors import error_code, to_cli_error
from node_agent.contract.launch_breaker import BreakerRecord, breaker_from_item, breaker_key


def read_breaker(client: Any, table: str, group: str) -> BreakerRecord | str | None:
    """Read the group's record.

    Args:
        client: boto3's of DynamoDB.
        table: the cluster's table.
        group: the Auto Scaling group's name.

    Returns:
        The record; None where there is none; a text, why it cannot be read: it is only an addition to what is shown.
    """
    key = {name: {"S": value} for name, value in breaker_key(group).items()}
    try:
        item = client.get_item(TableName=table, Key=key).get("Item")
        read = TypeDeserializer().deserialize
        return breaker_from_item({name: read(value) for name, value in item.items()}) if item else None
    except ClientError as error:
        return None if error_code(error) == "ResourceNotFoundException" else to_cli_error(error).message
    except BotoCoreError as error:
        return to_cli_error(error).message
    except ValueError as error:
        return f"the record cannot be parsed: {error}"
