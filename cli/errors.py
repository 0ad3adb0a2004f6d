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
    exit_code = ExitCode.FAILED


class BadUsage(CliError):
    exit_code = ExitCode.USAGE


class NotFound(CliError):
    exit_code = ExitCode.NOT_FOUND


class Ambiguous(CliError):
    exit_code = ExitCode.AMBIGUOUS


class NoAccess(CliError):
    exit_code = ExitCode.NO_ACCESS


class ToolMissing(CliError):
    exit_code = ExitCode.TOOL_MISSING


class TimedOut(CliError):
    exit_code = ExitCode.TIMED_OUT


class Declined(CliError):
    exit_code = ExitCode.DECLINED


class BadConfiguration(CliError):
    exit_code = ExitCode.CONFIGURATION
