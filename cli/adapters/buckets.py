"""Delete objects and versions in S3 buckets."""

from __future__ import annotations

from typing import Any

from botocore.exceptions import ClientError

from cli.aws_errors import error_code

_MAX_KEYS = 1_000


def empty(client: Any, bucket: str) -> int:
    """Delete every version of every object and return their number; 0 where the bucket does not exist."""
    removed = 0
    try:
        for page in client.get_paginator("list_object_versions").paginate(
            Bucket=bucket, PaginationConfig={"PageSize": _MAX_KEYS}
        ):
            entries = [*page.get("Versions", ()), *page.get("DeleteMarkers", ())]
            if entries:
                objects = [{"Key": each["Key"], "VersionId": each["VersionId"]} for each in entries]
                delete_objects(client, bucket, objects)
                removed += len(objects)
    except ClientError as error:
        if error_code(error) != "NoSuchBucket":
            raise
    return removed


def delete_objects(client: Any, bucket: str, objects: list[dict[str, str]]) -> None:
    """Delete objects or versions in batches. Raises ClientError for the first one that cannot be deleted."""
    for start in range(0, len(objects), _MAX_KEYS):
        some = objects[start : start + _MAX_KEYS]
        answer = client.delete_objects(Bucket=bucket, Delete={"Objects": some, "Quiet": True})
        for refused in answer.get("Errors", ()):
            raise ClientError({"Error": refused}, "DeleteObjects")
