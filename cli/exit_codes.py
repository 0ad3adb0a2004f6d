"""What `synkti` ends with, for scripts and workflows. docs/cli.md has this table, made from here."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """One meaning each, whichever command it was."""

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
    def word(self) -> str:
        """The error's name in `--json`."""
        return self.name.lower()


MEANINGS = {
    ExitCode.DONE: "done; also where there was nothing to do",
    ExitCode.FAILED: "something went wrong on the way; the message says what, and whether to run the command again",
    ExitCode.USAGE: "the command line is wrong; see `--help`",
    ExitCode.FINDINGS: "`doctor` found something that has to be mended first",
    ExitCode.NOT_FOUND: "there is no such cluster, node or model",
    ExitCode.AMBIGUOUS: "there are several, and none was named; nothing was done",
    ExitCode.NO_ACCESS: "no credentials, or they may not do this",
    ExitCode.TOOL_MISSING: "a program that the command needs is not installed",
    ExitCode.TIMED_OUT: "what was waited for did not happen in time; it may still",
    ExitCode.DECLINED: "the question was answered with no, or there was nobody to ask; nothing was done",
    ExitCode.CONFIGURATION: "synkti.toml or an option has a value that cannot be; nothing was done",
    ExitCode.INTERRUPTED: "Ctrl-C; what was begun can be gone on with",
}
