"""Runs the embedded AWS: ministack as a process on a free loopback port; creates its clients."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from local.errors import LocalRunError
from local.process_cleanup import kill_all_in, start, tail

ACCOUNT = "000000000000"
REGION = "us-east-1"
_HOST = "127.0.0.1"
_SERVER = Path(__file__).with_name("embedded_aws.py")
_READY_WITHIN_S = 30.0
_CLIENT = Config(connect_timeout=5, retries={"mode": "standard", "total_max_attempts": 2})
"""boto3's own retries last half a minute, in which a run that is stopped would wait for an AWS that is gone."""


class EmbeddedAws:
    """The running process. folder: the run's, with which the process ends."""

    def __init__(self, folder: Path, logs: Path) -> None:
        self._folder = folder / "aws"
        self._log = logs / "aws.log"
        self._port = free_port()
        # The CDK CLI remembers an account for each access key, so that every run needs a new one.
        self._credentials = {
            "AWS_ACCESS_KEY_ID": "AKIA" + secrets.token_hex(8).upper(),
            "AWS_SECRET_ACCESS_KEY": secrets.token_hex(16),
        }
        scratch = self._folder / "tmp"
        scratch.mkdir(parents=True, exist_ok=True)
        environ = {
            **os.environ,
            **self._credentials,
            "BIND_HOST": _HOST,
            "GATEWAY_PORT": str(self._port),
            # Its Lambda workers store their packages and work there.
            "TMPDIR": str(scratch),
            # Unused listeners on all addresses.
            "IOT_MTLS_ENABLED": "0",
            "SFTP_ENABLED": "0",
        }
        self._process = start([sys.executable, str(_SERVER)], self._folder, environ, self._log)

    @property
    def endpoint(self) -> str:
        """The base URL, which serves every service."""
        return f"http://{_HOST}:{self._port}"

    def environ(self) -> dict[str, str]:
        """Return this process's environment with the settings that direct any AWS tool to this AWS."""
        return {
            **os.environ,
            **self._credentials,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            # The user's profiles are of real accounts.
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    def client(self, service: str) -> Any:
        """Create a boto3 client of the service, with this run's credentials."""
        session = boto3.session.Session(
            aws_access_key_id=self._credentials["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self._credentials["AWS_SECRET_ACCESS_KEY"],
            region_name=REGION,
        )
        return session.client(service, endpoint_url=self.endpoint, config=_CLIENT)  # type: ignore[call-overload]

    def wait(self) -> None:
        """Wait until it answers. Raises LocalRunError."""
        give_up_at = time.monotonic() + _READY_WITHIN_S
        while not self._healthy():
            if self._process.poll() is not None or time.monotonic() > give_up_at:
                raise LocalRunError(f"the embedded AWS did not start; its log, {self._log}, ends:\n{tail(self._log)}")
            time.sleep(0.05)

    def stop(self) -> None:
        """End it, and the Lambdas that it runs."""
        kill_all_in(self._folder)
        self._process.wait()

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.endpoint}/_ministack/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def free_port(preferred: int = 0) -> int:
    """Return a loopback port that is free now; another program may take it before it is used.

    Args:
        preferred: the port to return where it is free.

    Returns:
        The port.

    Raises:
        LocalRunError: there is none.
    """
    for port in (preferred, 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((_HOST, port))
            return int(probe.getsockname()[1])
    raise LocalRunError("this machine has no free port")


def run_tool(argv: list[str], folder: Path, environ: dict[str, str], what: str, timeout_s: float = 300.0) -> str:
    """Run a tool to its end; return its output. Raises LocalRunError with the last lines of it."""
    try:
        done = subprocess.run(
            argv, cwd=folder, env=environ, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise LocalRunError(f"{what} did not end within {timeout_s:.0f} s") from error
    if done.returncode:
        said = (done.stdout + done.stderr).strip().splitlines()[-15:]
        raise LocalRunError(f"{what} failed with status {done.returncode}:\n" + "\n".join(said))
    return done.stdout
