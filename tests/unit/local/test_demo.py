"""How `make run` ends where something fails; tests/e2e/test_run.py runs it whole."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from botocore.exceptions import BotoCoreError, ClientError, EndpointConnectionError

from local.demo import run as demo
from local.errors import LocalRunError, UserActionRequired

AWS_FAILED = ClientError({"Error": {"Code": "InternalError", "Message": "no"}}, "DescribeInstances")


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (EndpointConnectionError(endpoint_url="http://127.0.0.1:1"), 1, "the embedded AWS failed: Could not connect"),
        (AWS_FAILED, 1, "the embedded AWS failed: An error occurred (InternalError)"),
        (LocalRunError("cdk deploy failed"), 1, "cdk deploy failed"),
        (UserActionRequired("the download failed"), 2, "the download failed"),
    ],
)
def test_a_failure_is_a_line_and_an_exit_code(
    error: BotoCoreError | ClientError | LocalRunError, code: int, said: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    async def failing(*_: object) -> bool:
        raise error

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)  # which the run deletes: here it comes back
    monkeypatch.setattr(demo, "_run", failing)
    monkeypatch.setattr(sys, "argv", ["make run", "--engine", "sim", "--out", str(tmp_path)])
    assert demo.run(0.0) == code
    assert said in " ".join(capsys.readouterr().out.split())
    assert list((tmp_path / "run").iterdir()) == []
