"""Read boto3's responses. A part of another form than documented is skipped; it raises no error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from botocore.exceptions import ClientError


def mappings(value: object) -> list[Mapping[str, Any]]:
    """Return the mappings in a list; an empty list where `value` is no list."""
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, list) else []


def non_negative_int(value: object, otherwise: int = 0) -> int:
    """Return `value` where it is a whole number that is not negative, else `otherwise`."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else otherwise


def error_code(error: ClientError) -> str:
    """Return AWS's error code, "" where the response has none."""
    details = error.response.get("Error")
    return str(details.get("Code", "")) if isinstance(details, Mapping) else ""
