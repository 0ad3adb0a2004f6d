"""The exit codes of `synkti`, for scripts and workflows. The table in docs/cli.md is generated from here."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes, with the same meaning for every command."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    FINDINGS = 3
    NOT_FOUND = 4
    AMBIGUOUS = 5
    NO_ACCESS = 6
    TOOL_MISSING = 7
    TIMED_OUT = 8
    DECLINED = 9
    CONFIGURATION = 78
    INTERRUPTED = 130

    @property
    def label(self) -> str:
        """The error's name in `--json`."""
        return self.name.lower()


DESCRIPTIONS = {
    ExitCode.DONE: "done; also where there was nothing to do",
    ExitCode.FAILED: "the command failed; the message has the cause, and whether to run the command again",
    ExitCode.USAGE: "the command line is wrong; see `--help`",
    ExitCode.FINDINGS: "`doctor`, `status` or `drill first-day` found something that has to be fixed first",
    ExitCode.NOT_FOUND: "there is no such cluster, node or model",
    ExitCode.AMBIGUOUS: "there are several, and none is named; nothing was done",
    ExitCode.NO_ACCESS: "no credentials, or they may not do this",
    ExitCode.TOOL_MISSING: "a program that the command needs is not installed",
    ExitCode.TIMED_OUT: "the awaited state was not reached in time; it may still be",
    ExitCode.DECLINED: "the question was answered with no, or there was no terminal to ask; nothing was done",
    ExitCode.CONFIGURATION: "synkti.toml or an option has an invalid value; nothing was done",
    ExitCode.INTERRUPTED: "Ctrl-C; running the command again continues",
}
