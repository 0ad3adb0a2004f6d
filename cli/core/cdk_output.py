"""Parse and shorten the output of the CDK's command-line tool."""

from __future__ import annotations

import re
from collections.abc import Sequence

_EVENT = re.compile(
    r"^\s*(?P<stack>[\w-]+) \|\s*(?P<done>\d+)(?:/(?P<all>\d+))? \|.*\| (?P<status>\w+) +\| (?P<rest>.+)$"
)
_COMPLETION = re.compile(r"^\s*✅\s+(?:Environment\s+)?(?P<what>\S+)(?P<rest>.*)$")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_MAX_LINES = 12
_BUSY = re.compile(
    r"is in \w+_IN_PROGRESS state|in status \w+_IN_PROGRESS|OperationInProgress|operation is (?:already )?in progress",
    re.IGNORECASE,
)
_EXPIRED = re.compile(
    r"ExpiredToken|token (?:included in the request )?(?:is|has) expired|RequestExpired", re.IGNORECASE
)


def strip_colors(line: str) -> str:
    """Return a line without its color codes."""
    return _COLOUR.sub("", line).rstrip()


def parse_progress(line: str) -> str | None:
    """Return a summary of a line with an event of CloudFormation; None for other lines."""
    match = _EVENT.match(line)
    if match is None:
        return None
    step = f"{match['done']}/{match['all']}" if match["all"] else match["done"]
    return (
        f"{match['stack']} {step}: {match['status'].lower().replace('_', ' ')} {match['rest'].split('|')[-1].strip()}"
    )


def parse_completion(line: str) -> str | None:
    """Return a summary of a line that reports a completed stack; None for other lines."""
    match = _COMPLETION.match(line)
    if match is None:
        return None
    unchanged = "no changes" in match["rest"]
    return f"{match['what']}{': no change' if unchanged else ' is deployed'}"


def is_busy(excerpt: str) -> bool:
    """Return True where CloudFormation refuses because another operation on the stack is under way."""
    return _BUSY.search(excerpt) is not None


def is_expired(excerpt: str) -> bool:
    """Return True where AWS refuses because the credentials have expired."""
    return _EXPIRED.search(excerpt) is not None


def failure_excerpt(lines: Sequence[str]) -> str:
    """Return the lines with the tool's error; the last lines where there is none."""
    printed = [line for line in lines if line.strip()]
    marked = [n for n, line in enumerate(printed) if "❌" in line or line.startswith(("Error", "configuration:"))]
    return "\n".join(printed[marked[0] :][:_MAX_LINES] if marked else printed[-_MAX_LINES:])
