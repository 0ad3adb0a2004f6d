"""Count the engine core's steps where its agent can read them although nothing else answers.

The API server's metrics have the count too, while the API server works. Here the core itself counts, in eight bytes of
a mapped file (`$SYNKTI_STEPS_DIR/<pid>`, a little-endian uint64): no system call, no message to another process, and an
unchanged count means that this core has computed nothing since.

Only steps that computed something count: a scheduler that runs with nothing to schedule does no work.
"""

from __future__ import annotations

import logging
import mmap
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from synkti_engine.patching import Function, wrap_method

STEPS_DIR = "SYNKTI_STEPS_DIR"
_COUNT = struct.Struct("<Q")
_log = logging.getLogger("vllm.synkti")


def install(scheduler: type) -> None:
    """Count the steps of vLLM's `scheduler`. Changes nothing where STEPS_DIR is not set."""
    folder = os.environ.get(STEPS_DIR)
    if folder:
        wrap_method(scheduler, "update_from_output", counting(Path(folder)))


def counting(folder: Path) -> Callable[[Function], Function]:
    """Return a wrapper that counts the calls of `update_from_output` in the process that makes them."""
    count, mapped = 0, None

    def make(update: Function) -> Function:
        def update_from_output(self: Any, scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal count, mapped
            outputs = update(self, scheduler_output, *args, **kwargs)
            if scheduler_output.total_num_scheduled_tokens:
                if not count:
                    mapped = _mapped(folder)  # at the first step: the API server, which makes none, has no file
                count += 1
                if mapped is not None:
                    _COUNT.pack_into(mapped, 0, count)
            return outputs

        return update_from_output

    return make


def _mapped(folder: Path) -> mmap.mmap | None:
    """Map a new count file; None where that fails: the agent then uses the metrics, and the engine is unaffected."""
    try:
        path = folder / str(os.getpid())
        path.write_bytes(bytes(_COUNT.size))
        with path.open("r+b") as file:
            return mmap.mmap(file.fileno(), _COUNT.size)
    except OSError as error:
        _log.warning("Synkti's plug-in cannot count steps in %s: %s", folder, error)
        return None
