"""Reading what boto3 answers: what has another form than it should is left out, never an error of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from botocore.exceptions import ClientError


def maps(value: object) -> list[Mapping[str, Any]]:
    """The maps in a list; none where it is no list."""
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, list) else []


def number(value: object, otherwise: int = 0) -> int:
    """A whole number that is not negative; `otherwise` for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else otherwise


def error_code(error: ClientError) -> str:
    """AWS's own code, "" where it gave none."""
    told = error.response.get("Error")
    return str(told.get("Code", "")) if isinstance(told, Mapping) else ""
