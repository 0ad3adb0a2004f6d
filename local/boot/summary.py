"""The summary at a run's end: what was booted, what was shown, what failed, and what such a run cannot show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

OUTCOMES = "outcomes.json"
"""The file among a run's logs that has each part's outcome."""

NEVER_SHOWN = (
    "AWS's GPU image (Ubuntu 24.04, NVIDIA's driver, agents of SSM and CloudWatch), other Ubuntus, Amazon Linux: no "
    "such image is here; the instances are Debian 12",
    "a GPU, and the engine's packages for it: no GPU is here; the engine's environment is part of the image",
    "EC2, its Auto Scaling group, IMDS and the services: local/ec2_emulator, local/imds and the embedded AWS play them",
    "a boot of a kernel, drivers, DHCP, a disk: a container has this machine's kernel, its address from outside, and "
    "disks in memory",
)
"""What no machine shows, each with the reason."""

_CGROUPS_V1 = (
    "systemd's own account of a kill by the kernel (oom-kill): with cgroup v1 a container cannot limit memory, so the "
    "limit is set from outside"
)


@dataclass(frozen=True)
class Outcome:
    """What became of a part. name, shows: of the part; took_s: None where it was not run; failure: empty if passed."""

    name: str
    shows: str
    took_s: float | None = None
    failure: str = ""

    @property
    def passed(self) -> bool:
        """True where it was run and nothing was wrong."""
        return self.took_s is not None and not self.failure


def not_shown(python: str, cgroups: str, without_vllm: str) -> list[str]:
    """Return what this run cannot show. Pure.

    Args:
        python: the words for a substitute of CPython's archive; empty for the release's.
        cgroups: "v1" or "v2".
        without_vllm: why no instance has a real vLLM; empty where the part that boots it was run.
    """
    found = list(NEVER_SHOWN)
    if python:
        found.append(f"the release's CPython: its archive could not be downloaded; nodes installed {python}")
    if cgroups == "v1":
        found.append(_CGROUPS_V1)
    if without_vllm:
        found.append(f"vLLM: {without_vllm}; the engine is the fake one")
    return found


def format_summary(booted: int, outcomes: Sequence[Outcome], unshown: Sequence[str]) -> str:
    """Return the summary, a line for each part and for each thing that was not shown. Pure.

    Args:
        booted: the number of instances that were booted.
        outcomes: of the parts, in their order.
        unshown: what the run cannot show.
    """
    width = max((len(outcome.name) for outcome in outcomes), default=0)
    lines = [f"booted: {booted} instances (systemd, cloud-init, the launch template's user data)", ""]
    for outcome in outcomes:
        took = "" if outcome.took_s is None else f"{outcome.took_s:4.0f} s"
        lines.append(f"  {_status(outcome):7}  {outcome.name:{width}}  {took:>6}  {outcome.shows}")
        if outcome.failure:
            lines.append(f"  {'':7}  {outcome.failure.splitlines()[0]}")
    lines += ["", "not shown here:", *(f"  - {text}" for text in unshown)]
    return "\n".join(lines)


def _status(outcome: Outcome) -> str:
    if outcome.took_s is None:
        return "NOT RUN"
    return "FAILED" if outcome.failure else "shown"
