"""The errors of the commands: a sentence, an advice, an exit code."""

from __future__ import annotations

from typing import ClassVar

from cli.exit_codes import ExitCode


class CliError(Exception):
    """The base class. advice: what to do, a sentence or a command; may be empty."""

    exit_code: ClassVar[ExitCode] = ExitCode.FAILED

    def __init__(self, message: str, advice: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.advice = advice

    def document(self) -> dict[str, object]:
        """Return what `--json` prints instead of a result."""
        return {
            "error": {
                "code": self.exit_code.label,
                "exit_code": int(self.exit_code),
                "message": self.message,
                "advice": self.advice,
            }
        }


class Failed(CliError):
    """The command failed; the message has the cause."""

    exit_code = ExitCode.FAILED


class BadUsage(CliError):
    """The options do not fit together, or one has an invalid value."""

    exit_code = ExitCode.USAGE


class NotFound(CliError):
    """There is no such cluster, node, model or resource."""

    exit_code = ExitCode.NOT_FOUND


class Ambiguous(CliError):
    """There are several, and none is named."""

    exit_code = ExitCode.AMBIGUOUS


class NoAccess(CliError):
    """There are no credentials, or they do not permit this."""

    exit_code = ExitCode.NO_ACCESS


class ToolMissing(CliError):
    """A program that the command needs is not installed, or too old."""

    exit_code = ExitCode.TOOL_MISSING


class TimedOut(CliError):
    """The awaited state was not reached in time; it may still be."""

    exit_code = ExitCode.TIMED_OUT


class Declined(CliError):
    """The question was answered with no, or there is no terminal for it."""

    exit_code = ExitCode.DECLINED


class BadConfiguration(CliError):
    """synkti.toml or an option has an invalid value, or the account is another."""

    exit_code = ExitCode.CONFIGURATION
