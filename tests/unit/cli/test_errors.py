"""A person's mistake is a sentence, an advice and an exit code, never a stack trace."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from botocore import exceptions as aws_exceptions
from botocore.exceptions import BotoCoreError, ClientError

from cli import main as command
from cli.account import Account, is_embedded
from cli.aws_errors import to_cli_error
from cli.errors import CliError, Declined
from cli.exit_codes import DESCRIPTIONS, ExitCode
from cli.polling import Clock, wait_for
from cli.terminal import Terminal, human_age, human_bytes
from node_agent.contract.errors import ModelDamaged
from tests.unit.cli.conftest import Run
from tests.unit.cli.memory_cloudformation import MemoryCloudFormation


def client_error(code: str, message: str = "no") -> ClientError:
    body: Any = {"Error": {"Code": code, "Message": message}}
    return ClientError(body, "DescribeInstances")


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (aws_exceptions.NoCredentialsError(), ExitCode.NO_ACCESS, "no AWS credentials"),
        (aws_exceptions.ProfileNotFound(profile="work"), ExitCode.NO_ACCESS, "work"),
        (aws_exceptions.UnauthorizedSSOTokenError(), ExitCode.NO_ACCESS, "no AWS credentials"),
        (aws_exceptions.NoRegionError(), ExitCode.CONFIGURATION, "no AWS region is set"),
        (aws_exceptions.InvalidRegionError(region_name="us east"), ExitCode.CONFIGURATION, "us east"),
        (aws_exceptions.EndpointConnectionError(endpoint_url="https://x"), ExitCode.FAILED, "cannot be reached"),
        (aws_exceptions.ReadTimeoutError(endpoint_url="https://x"), ExitCode.FAILED, "cannot be reached"),
        (aws_exceptions.IncompleteReadError(actual_bytes=1, expected_bytes=2), ExitCode.FAILED, "AWS failed"),
        (client_error("ExpiredToken"), ExitCode.NO_ACCESS, "does not accept these credentials"),
        (client_error("InvalidClientTokenId"), ExitCode.NO_ACCESS, "does not accept these credentials"),
        (client_error("UnauthorizedOperation", "you may not"), ExitCode.NO_ACCESS, "DescribeInstances: you may not"),
        (client_error("AccessDenied"), ExitCode.NO_ACCESS, "these credentials may not"),
        (client_error("OptInRequired"), ExitCode.NO_ACCESS, "not signed up"),
        (client_error("RequestLimitExceeded"), ExitCode.FAILED, "throttles requests"),
        (client_error("ValidationError", "bad name"), ExitCode.FAILED, "bad name (ValidationError)"),
        (client_error("", ""), ExitCode.FAILED, "DescribeInstances failed"),
    ],
)
def test_each_failure_of_aws_has_an_exit_code_and_a_message(
    error: BotoCoreError | ClientError, code: ExitCode, message: str
) -> None:
    cli_error = to_cli_error(error)
    assert cli_error.exit_code is code
    assert message in cli_error.message


def test_every_exit_code_has_a_meaning_and_every_error_a_code_of_its_own() -> None:
    assert set(DESCRIPTIONS) == set(ExitCode)
    codes = [kind.exit_code for kind in CliError.__subclasses__()]
    assert len(codes) == len(set(codes))


def test_no_credentials_is_6(run: Run) -> None:
    done = run("nodes", "--region", "us-east-1")
    assert done.code == 6
    assert done.err.splitlines()[0].startswith("synkti: no AWS credentials")
    assert "aws configure" in done.err
    document = run("nodes", "--region", "us-east-1", "--json").document
    assert document["error"]["code"] == "no_access"
    assert document["error"]["exit_code"] == 6


def test_no_region_is_78(run: Run) -> None:
    assert run("nodes").code == 78
    assert run("nodes", "--region", "us east").code == 78


def test_an_unknown_profile_is_6(run: Run) -> None:
    assert run("nodes", "--region", "us-east-1", "--profile", "nobody").code == 6


def test_an_unreachable_aws_is_reported(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(Account, "_client", _impatient)
    done = run("nodes", "--region", "us-east-1")
    assert (done.code, "AWS cannot be reached" in done.err) == (1, True)


def _impatient(self: Account, service: str, connections: int = 10) -> Any:
    return self._session.client(service)  # type: ignore[call-overload] # without tries of its own


def test_wrong_usage_is_2_and_names_the_help_page(run: Run) -> None:
    done = run("nodes", "--wat")
    assert done.code == 2
    assert "synkti nodes --help" in done.err
    assert run("wat").code == 2
    assert run("gateway").code == 2


def test_wrong_settings_are_reported_together(aws: MemoryCloudFormation, run: Run, nowhere: Path) -> None:
    (nowhere / "synkti.toml").write_text("nodes = 0\nzones = 9\n")
    done = run("bootstrap")
    assert done.code == 78
    assert "nodes=0" in done.err
    assert "zones=9" in done.err
    (nowhere / "synkti.toml").write_text("this is no TOML")
    assert run("nodes").code == 78


def test_a_damaged_model_is_reported_with_exit_code_1(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(**_: object) -> None:
        raise ModelDamaged("the manifest cannot be read")

    monkeypatch.setattr(command, "app", damaged)
    assert run("model", "ls").code == 1


def test_ctrl_c_is_130(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "app", interrupted)
    assert run("nodes").code == 130


def test_a_bug_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(command, "app", broken)
    with pytest.raises(ZeroDivisionError):
        command.main(["nodes"])


def test_the_version_is_printed(run: Run) -> None:
    done = run("--version")
    assert (done.code, done.out.startswith("synkti ")) == (0, True)


# --- the terminal ----------------------------------------------------------------------------------------------------


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("answer", "accepted"), [("y\n", True), ("YES\n", True), ("n\n", False), ("", False)])
def test_a_question_needs_the_answer_of_a_person(answer: str, accepted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", Tty(answer))
    terminal = Terminal()
    if accepted:
        terminal.confirm("Really?", yes=False)
    else:
        with pytest.raises(Declined):
            terminal.confirm("Really?", yes=False)


def test_without_a_terminal_a_question_is_declined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    with pytest.raises(Declined, match="no terminal to confirm"):
        Terminal().confirm("Really?", yes=False)
    monkeypatch.setattr("sys.stdin", Tty("y\n"))
    with pytest.raises(Declined, match="no terminal to confirm"):
        Terminal(as_json=True).confirm("Really?", yes=False)
    Terminal(as_json=True).confirm("Really?", yes=True)


def test_colours_are_only_for_terminals(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    Terminal().line("fine", "green")
    assert capsys.readouterr().out == "fine\n"
    monkeypatch.setenv("FORCE_COLOR", "1")
    Terminal().line("fine", "green")
    assert "\x1b[32mfine" in capsys.readouterr().out
    monkeypatch.setenv("NO_COLOR", "1")
    Terminal().line("fine", "green")
    assert "\x1b[32m" not in capsys.readouterr().out


def test_long_lines_are_not_cut_when_piped(capsys: pytest.CaptureFixture[str]) -> None:
    Terminal().table(("A", "B"), [("x" * 150, "[not markup]" * 20)])
    assert "x" * 150 + "  " + "[not markup]" * 20 in capsys.readouterr().out


def test_a_transfer_prints_its_progress_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = iter([0.0, 1.0, 12.0, 13.0])
    monkeypatch.setattr("cli.terminal.time.monotonic", lambda: next(now))
    with Terminal().transfer("models/x", 4096) as bar:
        for _ in range(3):
            bar.add(1024)
    assert capsys.readouterr().err.splitlines() == ["models/x: 4.0 KiB ...", "models/x: 2.0 KiB of 4.0 KiB"]


def test_on_a_terminal_a_transfer_is_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    with Terminal().transfer("models/x", 4096) as bar:
        bar.add(4096)
    assert "4.0/4.0 KiB" in capsys.readouterr().err


def test_sizes_and_ages_are_printed_for_people() -> None:
    assert [human_bytes(n) for n in (0, 1023, 1024, 15 * 2**30, 3 * 2**40)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "15.0 GiB",
        "3.0 TiB",
    ]
    assert [human_age(s) for s in (-1, 59, 60, 7200, 200_000)] == ["0 s", "59 s", "1 min", "2 h", "2 d"]


def test_waiting_is_bounded() -> None:
    at = [0.0]

    def sleep(seconds: float) -> None:
        at[0] += seconds

    clock = Clock(lambda: at[0], sleep)
    assert wait_for(lambda: at[0] if at[0] >= 6 else None, "it", within_s=10, every_s=2, clock=clock) == 6
    with pytest.raises(CliError, match="it did not happen within 10 s"):
        wait_for(lambda: None, "it", within_s=10, every_s=3, clock=clock)
    assert at[0] <= 16


@pytest.mark.parametrize(
    ("endpoint", "embedded"),
    [
        ("http://127.0.0.1:4566", True),
        ("http://localhost:4566", True),
        ("", False),
        ("https://vpce.amazonaws.com", False),
    ],
)
def test_only_an_endpoint_on_this_machine_is_the_embedded_aws(endpoint: str, embedded: bool) -> None:
    assert is_embedded(endpoint) is embedded
