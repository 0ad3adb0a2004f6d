"""Buckets of which nothing is to be kept."""

from __future__ import annotations

from typing import Any

from botocore.exceptions import ClientError

from cli.aws_errors import error_code

_AT_ONCE = 1_000


def empty(client: Any, bucket: str) -> int:
    """Remove every version of every object; how many there were. A bucket that is not there is empty."""
    removed = 0
    try:
        for page in client.get_paginator("list_object_versions").paginate(
            Bucket=bucket, PaginationConfig={"PageSize": _AT_ONCE}
        ):
            entries = [*page.get("Versions", ()), *page.get("DeleteMarkers", ())]
            if entries:
                objects = [{"Key": each["Key"], "VersionId": each["VersionId"]} for each in entries]
                remove(client, bucket, objects)
                removed += len(objects)
    except ClientError as error:
        if error_code(error) != "NoSuchBucket":
            raise
    return removed


def remove(client: Any, bucket: str, objects: list[dict[str, str]]) -> None:
    """Objects, or versions of them, in as few requests as can be. Raises ClientError for the first refusal."""
    for start in range(0, len(objects), _AT_ONCE):
        some = objects[start : start + _AT_ONCE]
        answer = client.delete_objects(Bucket=bucket, Delete={"Objects": some, "Quiet": True})
        for refused in answer.get("Errors", ()):
            raise ClientError({"Error": refused}, "DeleteObjects")
