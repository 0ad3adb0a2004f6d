"""What the CDK's command-line tool prints while it works, in a form that a person can follow."""

from __future__ import annotations

import re
from collections.abc import Sequence

_EVENT = re.compile(
    r"^\s*(?P<stack>[\w-]+) \|\s*(?P<done>\d+)(?:/(?P<all>\d+))? \|.*\| (?P<status>\w+) +\| (?P<rest>.+)$"
)
_ENDED = re.compile(r"^\s*✅\s+(?:Environment\s+)?(?P<what>\S+)(?P<rest>.*)$")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_SAID = 12


def plain(line: str) -> str:
    """A line without its colours."""
    return _COLOUR.sub("", line).rstrip()


def under_way(line: str) -> str | None:
    """One event of CloudFormation in short, for a line that changes all the time; None for other lines."""
    match = _EVENT.match(line)
    if match is None:
        return None
    step = f"{match['done']}/{match['all']}" if match["all"] else match["done"]
    return (
        f"{match['stack']} {step}: {match['status'].lower().replace('_', ' ')} {match['rest'].split('|')[-1].strip()}"
    )


def ended(line: str) -> str | None:
    """What is done now, and whether it changed anything; None for other lines."""
    match = _ENDED.match(line)
    if match is None:
        return None
    unchanged = "no changes" in match["rest"]
    return f"{match['what']}{': no change' if unchanged else ' is deployed'}"


def failure(lines: Sequence[str]) -> str:
    """The lines in which the tool says why it failed; the last ones where it does not say."""
    told = [line for line in lines if line.strip()]
    marked = [n for n, line in enumerate(told) if "❌" in line or line.startswith(("Error", "configuration:"))]
    return "\n".join(told[marked[0] :][:_SAID] if marked else told[-_SAID:])
