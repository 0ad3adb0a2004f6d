"""A plug-in of vLLM's (`vllm.general_plugins`): a request starts as if it had generated its first ids already.

Rules kept here:

* it is loaded in every process of the engine, and changes each only where that one has a part in it: the API server
  validates, and tells the ids behind a stream where it is asked to (`front`, `telling`), the engine's core starts a
  request with its ids (`core`) and counts its steps (`steps`), the worker restores what sampling depends on (`worker`);
* it touches private functions of vLLM's, so it is pinned to the versions that it was tested with. On any other it
  declines, says so, and changes nothing; the agent finds out by its self-test;
* a request without the arguments of `arguments` takes the same way through vLLM as without this plug-in, but for one
  thing: on a CPU a seeded request whose prefill comes in pieces would end the engine, and here it does not.

Not part of it: `forced`, the other way, is a logits processor, and vLLM is told of it on its command line.
"""

from __future__ import annotations

import logging

TESTED = ("0.32.0",)
"""Versions of vLLM whose private functions were read and tested; what a build adds to them (+cpu) does not matter."""

_log = logging.getLogger("vllm.synkti")
_registered = False


def refusal(version: str) -> str | None:
    """Why the plug-in declines on a version of vLLM; None where it does not."""
    if version.partition("+")[0] in TESTED:
        return None
    return f"it was tested with vLLM {', '.join(TESTED)}, and this is {version}"


def register() -> None:
    """What vLLM calls in each of its processes, more than once in some."""
    global _registered  # noqa: PLW0603 # a process is changed once
    if _registered:
        return
    _registered = True
    import vllm  # noqa: PLC0415 # importing this package must not cost what importing vLLM costs

    why = refusal(vllm.__version__)
    if why is not None:
        _log.warning("Synkti's plug-in does nothing: %s", why)
        return
    from vllm.v1.core.sched.scheduler import Scheduler  # noqa: PLC0415

    from synkti_engine import core, front, steps, worker  # noqa: PLC0415

    for part in (front, core, worker):
        part.install()
    steps.install(Scheduler)
    _log.info("Synkti's plug-in is in place")
