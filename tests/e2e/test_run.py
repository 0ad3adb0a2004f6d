"""`make run`, whole: the embedded AWS, the deployed stacks and Lambdas, agents, engines, and the OpenAI SDK.

Each test runs in its own folder, so that a run beside the tests, which may stay up for hours, is not affected.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from local.process_cleanup import processes_in, tail
from local.tiny_model import read_stories

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "local.demo.__main__"]
NO_INDEX = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0"}
GONE_WITHIN_S = 20.0
STOPS_WITHIN_S = 6.0
"""Two seconds on a machine that has nothing else to do."""


pytestmark = pytest.mark.e2e


def logs(out: Path) -> str:
    """Return the end of every log of a run, for the message of a failure."""
    ends = {log.name: tail(log, 25) for log in sorted((out / "logs").glob("*.log"))}
    return "\n".join(f"--- {name}\n{end}" for name, end in ends.items())


class Run:
    """A run in the background. out: its output folder."""

    def __init__(self, process: subprocess.Popen[bytes], out: Path, output: Path) -> None:
        self.process = process
        self.out = out
        self._output = output

    @property
    def output(self) -> str:
        return self._output.read_text()

    @property
    def evidence(self) -> str:
        return f"{self.output}\n{logs(self.out)}"

    def until(self, condition: Callable[[], bool], within_s: float) -> None:
        give_up_at = time.monotonic() + within_s
        while not condition():
            assert self.process.poll() is None, f"the run ended\n{self.evidence}"
            assert time.monotonic() < give_up_at, f"not within {within_s} s\n{self.evidence}"
            time.sleep(0.05)

    def line(self, begin: str) -> str:
        """Return the line of the output that begins so, to paste into a shell in the checkout's folder."""
        return next(line for line in self.output.splitlines() if line.startswith(begin))

    def wait(self, within_s: float) -> int:
        try:
            return self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            pytest.fail(f"the run did not end within {within_s} s\n{self.evidence}")

    def assert_nothing_is_left(self) -> None:
        give_up_at = time.monotonic() + GONE_WITHIN_S
        while left := [*processes_in(self.out), *(self.out / "run").glob("*")]:
            assert time.monotonic() < give_up_at, f"left: {left}"
            time.sleep(0.05)


@contextmanager
def running(tmp_path: Path, *options: str, **environ: str) -> Iterator[Run]:
    out, output = tmp_path / "out", tmp_path / "output"
    with output.open("wb") as file:
        process = subprocess.Popen(
            [*COMMAND, *options, "--out", str(out)],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environ},
        )
    try:
        yield Run(process, out, output)
    finally:
        process.kill()  # if the test failed; its cleanup process ends the rest
        process.wait()


def story_in(events: str) -> str:
    """Return the text of a chat's events as curl prints them."""
    chunks = [json.loads(line[len("data: ") :]) for line in events.splitlines() if line.startswith("data: {")]
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


def readme_snippet_prints(gateway: str) -> str:
    """Run README's Python snippet as it stands, but for the gateway's port, which may be taken on this machine."""
    (snippet,) = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert "http://127.0.0.1:8080" in snippet
    code = snippet.replace("http://127.0.0.1:8080", gateway)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout


def stop(run: Run, number: signal.Signals, status: int) -> None:
    """Send a signal; the run ends at once, and says so."""
    sent_at = time.monotonic()
    run.process.send_signal(number)
    assert run.wait(30) == status, run.evidence
    assert time.monotonic() - sent_at < STOPS_WITHIN_S, run.evidence
    if number is not signal.SIGKILL:
        assert "stopping" in run.output
    assert "Traceback" not in run.output
    run.assert_nothing_is_left()


def assert_nothing_was_lost(run: Run, engine: str) -> None:
    certificate = json.loads((run.out / "certificate.json").read_text())
    assert certificate["engine"] == engine
    interruptions = certificate["interruptions"]
    assert interruptions["notice"] >= 1
    assert interruptions["sigkill"] >= 1
    assert interruptions["entry-sigkill"] >= 1
    assert certificate["tokens"]["lost"] == certificate["tokens"]["duplicated"] == certificate["client_errors"] == 0
    assert certificate["tokens"]["delivered"] > 1000
    # Two clients read when the node that they are connected to is killed.
    assert (
        certificate["chains_verified"]
        == certificate["streams"]
        == interruptions["total"] + interruptions["entry-sigkill"]
    )
    assert certificate["resumed"] >= 4
    assert set(certificate["pause_ms"]["by_kind"]) == {"notice", "sigkill", "entry-sigkill"}, "each stream moved"
    # The run waits for the deployed Lambda's record, and prints it.
    for step in ("interruption-notice", "eventbridge", "notice-seen", "drained", "state gone", "launched"):
        assert step in run.output
    for seam in (": notice, pause", ": lost, pause", ": resumed, pause"):
        assert seam in run.output, f"a stream has no seam{seam}"
    assert re.search(r"plain vLLM: \d+ of \d+ tokens, then the client's connection broke", run.output), run.evidence
    assert "\x1b" not in run.output, "plain where it is no terminal"
    assert f"{certificate['tokens']['delivered']} tokens, 0 lost, 0 duplicated, 0 errors" in run.output


@pytest.mark.vllm
@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_run_with_vllm_loses_three_nodes_and_no_token(tmp_path: Path) -> None:
    with running(tmp_path, "--engine", "vllm") as run:
        assert run.wait(840) == 0, run.evidence
        assert_nothing_was_lost(run, "vllm")
        run.assert_nothing_is_left()


def test_a_run_loses_three_nodes_and_no_token_and_answers_until_ctrl_c(tmp_path: Path) -> None:
    with running(tmp_path, "--engine", "sim", "--stay") as run:
        run.until(lambda: "\nAWS_ENDPOINT_URL=" in run.output, within_s=200)
        assert_nothing_was_lost(run, "sim")
        curl = subprocess.Popen(run.line("curl -N "), shell=True, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        assert curl.stdout is not None
        output = "".join(next(iter(curl.stdout)) for _ in range(100))
        subprocess.run(run.line("kill -9 "), shell=True, check=True, cwd=ROOT)
        output += curl.communicate(timeout=60)[0]
        assert story_in(output) == read_stories()[1], "the printed line outlives a node"
        assert readme_snippet_prints(run.line("curl -N ").split("/v1/")[0].split()[-1]) == read_stories()[1]
        listed = subprocess.run(
            run.line("AWS_ENDPOINT_URL="), shell=True, capture_output=True, text=True, check=True, cwd=ROOT
        )
        assert "ready" in listed.stdout
        shown = set(re.findall(r"(i-\w{17}) +ready +(us-east-1\w) ", run.output))
        for instance_id, zone in shown:
            line = next((line for line in listed.stdout.splitlines() if instance_id in line), f" {zone} spot ")
            assert f" {zone} " in line, "the same zone as in the run's own table"
            assert " spot " in line
        stop(run, signal.SIGINT, 0)
        run.assert_nothing_is_left()


# Every signal but SIGKILL has one handler: tests/unit/local/test_interruptible_run.py.
@pytest.mark.parametrize(
    "number",
    [*(pytest.param(each, marks=pytest.mark.long) for each in (signal.SIGINT, signal.SIGTERM)), signal.SIGKILL],
)
def test_a_run_stopped_by_a_signal_leaves_no_process_and_no_file(number: signal.Signals, tmp_path: Path) -> None:
    with running(tmp_path, "--engine", "sim") as run:
        run.until(lambda: " ready" in run.output, within_s=120)
        stop(run, number, -9 if number is signal.SIGKILL else 130)


@pytest.mark.parametrize("shown", ["Synkti on one machine", "cdk bootstrap", " launched"])
def test_ctrl_c_ends_a_run_at_once_from_its_first_moment(shown: str, tmp_path: Path) -> None:
    with running(tmp_path, "--engine", "sim") as run:
        run.until(lambda: shown in run.output, within_s=120)
        stop(run, signal.SIGINT, 130)


def test_ctrl_c_at_make_run_is_no_failure() -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.execvp("make", ["make", "run", "ENGINE=sim"])
    shown, is_sent = b"", False
    with contextlib.suppress(OSError):  # a pty's end
        while data := os.read(terminal, 4096):
            shown += data
            if b"Synkti on one machine" in shown and not is_sent:
                is_sent = True
                os.write(terminal, b"\x03")
    # make ends by the signal, or after its recipe, whichever it notices first.
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) in (0, -signal.SIGINT), shown
    assert b"stopping" in shown
    assert b"***" not in shown, "make reports no failure"
    assert b"Traceback" not in shown


def test_a_fleet_that_cannot_start_fails_the_run_without_a_traceback(tmp_path: Path) -> None:
    with running(tmp_path, "--engine", "sim", SYNKTI_MAX_BODY_BYTES="lots") as run:
        assert run.wait(120) == 1, run.evidence
        assert "SYNKTI_MAX_BODY_BYTES='lots'" in run.output, run.evidence
        assert "Traceback" not in run.output
        run.assert_nothing_is_left()


@pytest.mark.long  # its error's line and exit code: tests/unit/local/test_demo.py
def test_an_embedded_aws_that_ends_fails_the_run_without_a_traceback(tmp_path: Path) -> None:
    with running(tmp_path, "--engine", "sim") as run:
        run.until(lambda: " ready" in run.output, within_s=120)
        (folder,) = (run.out / "run").iterdir()
        for pid in set(processes_in(folder / "aws")):
            os.kill(pid, signal.SIGKILL)
        assert run.wait(60) == 1, run.evidence
        assert "the embedded AWS failed" in run.output, run.evidence
        assert "Traceback" not in run.output
        run.assert_nothing_is_left()


def test_a_failed_download_ends_the_run_with_code_2(tmp_path: Path) -> None:
    with running(tmp_path, "--engine", "vllm", SYNKTI_CACHE=str(tmp_path / "cache"), **NO_INDEX) as run:
        assert run.wait(120) == 2, run.evidence
        assert "the download failed; check the network" in " ".join(run.output.split()), run.evidence
        assert "Traceback" not in run.output
        run.assert_nothing_is_left()
