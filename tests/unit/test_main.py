"""The agent's process: its log, and its end."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

_WAITING = """
import logging, threading
from concurrent.futures import ThreadPoolExecutor
from node_agent.__main__ import exit_immediately
logging.basicConfig(level=logging.INFO)
ThreadPoolExecutor().submit(threading.Event().wait, 60.0)
logging.info("the last word")
print("and on the other channel")
exit_immediately(69)
"""


_CHATTY = """
import logging
from node_agent import __main__ as agent
from node_agent.contract.errors import ConfigurationError

def from_environ(environ):
    for number in range(10_000):
        logging.getLogger("node_agent.peers").warning("refused %d", number)
    raise ConfigurationError(["enough"])

agent.from_environ = from_environ
raise SystemExit(agent.main())
"""


def test_the_log_of_the_process_is_bounded() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _CHATTY],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 78, done.stderr[-2_000:]
    assert 0 < done.stderr.count("refused") < 1_000


def test_a_thread_that_waits_for_the_network_does_not_hold_the_process() -> None:
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", _WAITING],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 69
    assert time.monotonic() - began < 30
    assert "the last word" in done.stderr
    assert "and on the other channel" in done.stdout
