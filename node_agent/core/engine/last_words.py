"""Find in an engine's output why it ended, and whether another start could end differently. Pure.

vLLM logs the root cause in its core's process ("ValueError: To serve at least one request ...") and then ends its API
server with a general error ("Engine core initialization failed. See root cause above."). So the last specific error is
the cause. vLLM raises ValueError, and pydantic ValidationError, where arguments, model and GPU do not fit together:
the next start would end the same, after minutes of loading.

Source: vLLM 0.32, v1/engine/core.py, v1/core/kv_cache_utils.py, config/, entrypoints/utils.py.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_WORDS = 400
"""Characters of the cause: it travels in systemd's status, in an event and in a table."""

USAGE_STATUS = 2
"""The exit status of argparse for arguments that it cannot parse."""

_PREFIX = r"(?:\([^)]*\)\s*)?(?:(?:ERROR|CRITICAL)\s[^\]]*\]\s*)?"
_ERROR = re.compile(_PREFIX + r"((?:\w+\.)*\w*(?:Error|Exception|Interrupt)): *(.*)")
_USAGE = re.compile(_PREFIX + r"(?:vllm|\S+\.py)[^:]*: error: (.+)")
_DETAIL = re.compile(_PREFIX + r"\s*(?:Value error|Assertion failed), *(.+)")
_GENERAL = ("Engine core initialization failed", "Engine process failed to start", "EngineCore failed")
_PERMANENT = frozenset({"ValueError", "ValidationError", "NotImplementedError", "ModuleNotFoundError", "ImportError"})
_TRANSIENT = ("Free memory on device", "Connection", "timed out", "Address already in use")
"""Messages of otherwise permanent errors that another start may not have: a GPU whose last engine still ends."""


@dataclass(frozen=True)
class LastWords:
    """Why an engine ended, in its own words, at most MAX_WORDS characters.

    is_permanent: another start with the same settings ends the same.
    """

    text: str
    is_permanent: bool


def last_words(output: str, status: int) -> LastWords | None:
    """Return the cause of an engine's end.

    Args:
        output: the end of what it wrote.
        status: its exit status; negative: the signal that ended it.

    Returns:
        The last specific error; a general one where there is no other; None where the output has no error.
    """
    found: LastWords | None = None
    lines = output.splitlines()
    for number, line in enumerate(lines):
        if usage := _USAGE.match(line):
            found = LastWords(_bounded(usage[1]), status == USAGE_STATUS)
        elif error := _ERROR.match(line):
            name, message = error[1].rpartition(".")[2], error[2]
            if found is not None and any(general in message for general in _GENERAL):
                continue
            if name == "ValidationError":
                message = _detail(lines[number + 1 : number + 4]) or message
            permanent = name in _PERMANENT and not any(word in message for word in _TRANSIENT)
            found = LastWords(_bounded(f"{name}: {message}"), permanent and status > 0)
    return found


def _detail(lines: list[str]) -> str:
    """Return pydantic's explanation, which follows the line with the error's name."""
    details = [match[1] for line in lines if (match := _DETAIL.match(line))]
    return details[0].partition(" [type=")[0] if details else ""


def _bounded(text: str) -> str:
    words = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return words if len(words) <= MAX_WORDS else words[: MAX_WORDS - 1] + "…"
