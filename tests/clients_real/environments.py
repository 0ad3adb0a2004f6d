"""The environments of real clients: pinned versions, each made once in the cache beside the engine's.

Clients contradict each other in what they need (two generations of httpx, torch, Node's packages), so none of them is
in the project's own environment. One that cannot be made skips its tests with the reason; where CI is set it fails
them, where a skipped test would go unnoticed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest

from local.cache import build_once, require_space
from local.errors import LocalRunError

_STEP_TIMEOUT_S = 1200
_NEEDED_GIB = 2.0
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9._]+")


@dataclass(frozen=True)
class Client:
    """A client's environment. packages: requirements for pip or npm."""

    name: str
    packages: tuple[str, ...]
    is_node: bool = False

    def folder(self) -> Path:
        """Return its folder, created if it is missing. Skips the test if it cannot be created."""
        versions = "-".join(_NOT_IN_A_NAME.sub("-", package).strip("-") for package in self.packages)
        python = f"py{sys.version_info.major}.{sys.version_info.minor}"
        try:
            return build_once(f"client-{'node' if self.is_node else python}-{versions}", self._make())
        except LocalRunError as error:
            not_tested(self.name, error)

    @property
    def program(self) -> str:
        """The interpreter that runs its scripts."""
        return "node" if self.is_node else str(self.folder() / "bin" / "python")

    def _make(self) -> Callable[[Path], None]:
        return self._make_node if self.is_node else self._make_python

    def _make_python(self, folder: Path) -> None:
        require_space(_NEEDED_GIB)
        print(f"clients: a new environment in {folder}", file=sys.stderr, flush=True)
        _step([sys.executable, "-m", "venv", str(folder)])
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _step([*pip, *self.packages])

    def _make_node(self, folder: Path) -> None:
        print(f"clients: a new environment in {folder}", file=sys.stderr, flush=True)
        _step(["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder), *self.packages])


def not_tested(name: str, error: LocalRunError) -> NoReturn:
    """Skip this test, or fail it in CI, because its client's environment cannot be created."""
    reason = f"NOT TESTED: the environment of {name} could not be made: {error}"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def _step(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_STEP_TIMEOUT_S)
    except FileNotFoundError as error:
        raise LocalRunError(f"{command[0]} is not installed") from error
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip() or error.stdout.strip() or "no output").splitlines()[-1]
        raise LocalRunError(f"{' '.join(command[-2:])}: {last}") from error
    except subprocess.TimeoutExpired as error:
        raise LocalRunError(f"{' '.join(command[-2:])}: no end after {_STEP_TIMEOUT_S} s") from error


OPENAI_1 = Client("OpenAI Python 1.109", ("openai==1.109.1",))
OPENAI_2 = Client("OpenAI Python 2.40", ("openai==2.40.0",))
OPENAI_3 = Client("OpenAI Python 3.57", ("openai==3.57.0",))
OPENAI_NODE = Client("OpenAI Node 7.57", ("openai@7.57.0",), is_node=True)
ANTHROPIC = Client("Anthropic Python 2.14", ("anthropic==2.14.0",))
ANTHROPIC_NODE = Client("Anthropic Node 1.14", ("@anthropic-ai/sdk@1.14.0",), is_node=True)
LANGCHAIN = Client("LangChain 1.7", ("langchain-openai==1.7.4",))
LLAMAINDEX = Client("LlamaIndex 0.8", ("llama-index-llms-openai-like==0.8.1",))
INSTRUCTOR = Client("instructor 1.17", ("instructor==1.17.0",))
PYDANTIC_AI = Client("Pydantic AI 2.68", ("pydantic-ai-slim[openai]==2.68.0",))
OPENAI_AGENTS = Client("OpenAI Agents 0.24", ("openai-agents==0.24.0",))
VERCEL_AI = Client("Vercel AI 7.0", ("ai@7.0.173", "@ai-sdk/openai-compatible@3.0.92"), is_node=True)
LITELLM = Client("LiteLLM 1.110", ("litellm==1.110.2",))
RAW = Client("aiohttp 3.14 and httpx 0.28", ("aiohttp==3.14.5", "httpx==0.28.1"))
EVENTSOURCE = Client("npm eventsource 4.1", ("eventsource@4.1.1",), is_node=True)
SCHEMATHESIS = Client("schemathesis 4.32", ("schemathesis==4.32.5",))
GUIDELLM = Client("guidellm 0.8.1", ("guidellm==0.8.1",))
