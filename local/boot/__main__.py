"""Runs `make boot`: a fleet of instances that really boot on this machine, and what may happen to them.

    python -m local.boot [--only PART]... [--out FOLDER]

It makes what is cached, then starts local/boot/inside in namespaces of its own (mounts, network, processes): when that
process ends, however it ends, the kernel ends every process of the run and removes its mounts and its network.

Exit code 0: all parts passed. 1: one did not, or something failed; the last line printed says what. 2: the user has to
fix something first. 130: stopped.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from functools import partial
from pathlib import Path

from local.boot.packages import ensure_packages
from local.boot.parts import PARTS, VLLM_PART
from local.boot.requirements import THIS_PYTHON, missing, missing_for_vllm, read_machine
from local.boot.root_image import ensure_root
from local.boot.scene import SETTINGS
from local.deploy import ROOT, synthesize
from local.engine_env import ensure_engine
from local.engines import VLLM, prepare_engine
from local.errors import LocalRunError, UserActionRequired
from local.interruptible_run import run_with_cleanup
from node_agent.contract.names import DEFAULT_CLUSTER

EXIT_USER_ACTION = 2


def main() -> int:
    """Run the parts; return the exit code (see the module)."""
    parser = argparse.ArgumentParser(prog="make boot", description="Instances that really boot, on this machine.")
    parser.add_argument("--only", action="append", choices=list(PARTS), help="run these parts only")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "boot", help="where logs go")
    options = parser.parse_args()
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]  # nothing here may reach a real account, or depend on one
    machine = read_machine()
    if faults := missing(machine):
        print("cannot boot instances on this machine:", file=sys.stderr)
        print("\n".join(f"- {fault}" for fault in faults), file=sys.stderr)
        return EXIT_USER_ACTION
    out = options.out.resolve()
    try:
        run = partial(_run, possible_parts(options.only or list(PARTS), THIS_PYTHON), out, machine.cgroups)
        return 0 if asyncio.run(run_with_cleanup(out, run, _log)) else 1
    except LocalRunError as error:
        _log(str(error))
        return EXIT_USER_ACTION if isinstance(error, UserActionRequired) else 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        _log("stopped")
        return 130


def possible_parts(parts: list[str], python: str) -> list[str]:
    """Return the parts without that with a real vLLM where this machine cannot boot it, which is logged.

    Args:
        parts: their names.
        python: this process's version, such as "3.11".

    Returns:
        At least one of them.

    Raises:
        UserActionRequired: no part is left.
    """
    fault = missing_for_vllm(python)
    if not fault or VLLM_PART not in parts:
        return parts
    if parts == [VLLM_PART]:
        raise UserActionRequired(f"{VLLM_PART}: {fault}")
    _log(f"the part {VLLM_PART} is left out: {fault}")
    return [part for part in parts if part != VLLM_PART]


def _log(text: str) -> None:
    print(text, flush=True)


async def _run(parts: list[str], out: Path, cgroups: str, folder: Path, scratch: Path) -> bool:
    packages = await asyncio.to_thread(ensure_packages, _log)
    root = await asyncio.to_thread(ensure_root, packages.folder, _log)
    python, more = packages.python, []
    if python.is_substitute:
        more += ["--downloads", str(python.pin.with_name("downloads.json")), "--python", python.title]
    else:
        await asyncio.to_thread(synthesize, DEFAULT_CLUSTER, SETTINGS)
    if fault := missing_for_vllm(THIS_PYTHON):
        more += ["--without-vllm", fault]
    if VLLM_PART in parts:
        engine = await asyncio.to_thread(prepare_engine, VLLM, _log)
        more += ["--vllm", str(ensure_engine(_log)), "--model", engine.model_dir]
    group = f"synkti-boot-{folder.name}"
    command = [
        "unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc",
        sys.executable, "-m", "local.boot.inside", "--root", str(root), "--packages", str(packages.folder),
        "--folder", str(folder / "inside"), "--logs", str(out / "logs"), "--cgroups", cgroups, "--group", group,
        "--pin", str(python.pin), *more, *parts,
    ]  # fmt: skip
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(scratch)}
    remover = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "local.boot.cgroups", cgroups, group,
        cwd=ROOT, stdin=asyncio.subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    # In the run's folder: the process that cleans up after a run finds it there, also if this one is killed.
    inside = await asyncio.create_subprocess_exec(
        *command, cwd=folder, env=environ, stdin=asyncio.subprocess.DEVNULL, start_new_session=True
    )
    try:
        return await inside.wait() == 0
    finally:
        if inside.returncode is None:
            inside.kill()  # and the kernel everything inside
            await inside.wait()
        await remover.communicate(b"")  # which ends its input


if __name__ == "__main__":
    sys.exit(main())
