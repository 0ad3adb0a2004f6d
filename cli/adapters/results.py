"""Turn errors of AWS into values, for inputs that may be missing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from cli.aws_errors import to_cli_error
from cli.core.result import Result, Unavailable
from cli.errors import CliError
from node_agent.contract.errors import SynktiError

_T = TypeVar("_T")


def result_of(query: Callable[[], _T]) -> Result[_T]:
    """Return the query's result, or Unavailable where it raises an error of AWS or of this command."""
    try:
        return query()
    except (BotoCoreError, ClientError) as error:
        return Unavailable(to_cli_error(error).message)
    except CliError as error:
        return Unavailable(error.message)
    except SynktiError as error:
        return Unavailable(str(error))
