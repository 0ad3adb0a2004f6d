"""Plug-in for vLLM (`vllm.general_plugins`): starts a request as if it had generated its first ids already.

Rules kept here:

* every process of the engine loads it, and it changes each one only as far as that process is involved: the API server
  validates, and emits the ids behind a stream on request (`api_server_patch`, `token_id_emitter`); the engine core
  starts a request with its ids (`engine_core_patch`) and counts its steps (`steps`); the worker restores the state that
  sampling depends on (`worker_patch`);
* it wraps private functions of vLLM, so it is pinned to the versions that it was tested with. On any other version it
  logs that it declines and changes nothing; the agent detects that with its self-test;
* a request without the arguments of `arguments` runs through vLLM as it does without this plug-in, with one exception:
  on a CPU, a seeded request with a chunked prefill would end the engine, and here it does not.

Not part of it: `forced`, the other method, is a logits processor, which vLLM loads from its command line.
"""

from __future__ import annotations

import logging

TESTED = ("0.32.0",)
"""Versions of vLLM whose private functions were read and tested; what a build adds to them (+cpu) does not matter."""

_log = logging.getLogger("vllm.synkti")
_registered = False


def refusal(version: str) -> str | None:
    """Return why the plug-in declines a version of vLLM, None where it accepts it."""
    if version.partition("+")[0] in TESTED:
        return None
    return f"it was tested with vLLM {', '.join(TESTED)}, and this is {version}"


def register() -> None:
    """Install the patches. vLLM calls this in each of its processes, more than once in some."""
    global _registered  # noqa: PLW0603 # a process is patched once
    if _registered:
        return
    _registered = True
    import vllm  # noqa: PLC0415 # importing this package must not cost what importing vLLM costs

    why = refusal(vllm.__version__)
    if why is not None:
        _log.warning("Synkti's plug-in does nothing: %s", why)
        return
    from vllm.v1.core.sched.scheduler import Scheduler  # noqa: PLC0415

    from synkti_engine import api_server_patch, engine_core_patch, steps, worker_patch  # noqa: PLC0415

    for part in (api_server_patch, engine_core_patch, worker_patch):
        part.install()
    steps.install(Scheduler)
    _log.info("Synkti's plug-in is in place")
