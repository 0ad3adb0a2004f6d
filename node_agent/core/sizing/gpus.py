"""The GPUs of EC2's instance types, and the memory that CUDA reports for them.

Two sources, one value: EC2's own description of a type (`describe_gpus`), and a table for where there is none: on
a node, whose role may not describe types, and on a machine without credentials (`known_gpus`). A test compares the
table with a copy of EC2's descriptions.

EC2 announces a GPU's nominal memory. CUDA reports less: error correction and the driver take their part. What it
reports is in the messages of PyTorch's OutOfMemoryError ("GPU 0 has a total capacity of 14.56 GiB" for a T4 of
16 GiB). The shares of the T4 and the A100 are the lowest of public reports, rounded down; those of the other GPUs are
estimates, meant to be low, which no GPU has confirmed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MIB = 1024**2
NODE_ARCHITECTURE = "x86_64"
"""That of the machine images and packages of nodes."""

MIN_CAPABILITY = 75
"""CUDA 13, for which vLLM 0.32's packages are built, runs no older GPU."""

BFLOAT16_CAPABILITY = 80
"""vLLM computes in bfloat16 from this capability on (platforms/cuda.py)."""


@dataclass(frozen=True)
class Gpu:
    """One GPU. name: EC2's; memory_bytes: what CUDA reports; capability: CUDA's, times ten; None where unknown."""

    name: str
    memory_bytes: int
    capability: int | None


@dataclass(frozen=True)
class InstanceGpus:
    """An instance type's GPUs, all alike."""

    instance_type: str
    gpu: Gpu
    count: int


@dataclass(frozen=True)
class Unusable:
    """An instance type that cannot run a node, and why: a sentence that begins after the type's name."""

    instance_type: str
    reason: str


@dataclass(frozen=True)
class _Fact:
    share: float
    capability: int


_FACTS = {
    "T4": _Fact(0.909, 75),
    "T4g": _Fact(0.909, 75),
    "V100": _Fact(0.98, 70),
    "A10G": _Fact(0.985, 86),
    "L4": _Fact(0.985, 89),
    "L40S": _Fact(0.985, 89),
    "A100": _Fact(0.984, 80),
    "H100": _Fact(0.985, 90),
    "H200": _Fact(0.985, 90),
    "B200": _Fact(0.985, 100),
    "RTX PRO Server 6000": _Fact(0.95, 120),
}
_OTHER_SHARE = 0.9
"""Of a GPU that is not listed: less than that of any listed one."""

_SINGLES = ("xlarge", "2xlarge", "4xlarge", "8xlarge", "16xlarge")
_SIZES: dict[str, tuple[str, int, Mapping[str, int]]] = {
    "g4dn": ("T4", 16_384, {**dict.fromkeys(_SINGLES, 1), "12xlarge": 4, "metal": 8}),
    "g5": ("A10G", 22_888, {**dict.fromkeys(_SINGLES, 1), "12xlarge": 4, "24xlarge": 4, "48xlarge": 8}),
    "g6": ("L4", 22_888, {**dict.fromkeys(_SINGLES, 1), "12xlarge": 4, "24xlarge": 4, "48xlarge": 8}),
    "gr6": ("L4", 22_888, {"4xlarge": 1, "8xlarge": 1}),
    "g6e": ("L40S", 45_776, {**dict.fromkeys(_SINGLES, 1), "12xlarge": 4, "24xlarge": 4, "48xlarge": 8}),
    "g7e": (
        "RTX PRO Server 6000",
        98_304,
        {"2xlarge": 1, "4xlarge": 1, "8xlarge": 1, "12xlarge": 2, "24xlarge": 4, "48xlarge": 8},
    ),
    "p3dn": ("V100", 32_768, {"24xlarge": 8}),
    "p4d": ("A100", 40_960, {"24xlarge": 8}),
    "p4de": ("A100", 81_920, {"24xlarge": 8}),
    "p5": ("H100", 81_920, {"4xlarge": 1, "48xlarge": 8}),
    "p5e": ("H200", 144_384, {"48xlarge": 8}),
    "p5en": ("H200", 144_384, {"48xlarge": 8}),
    "p6-b200": ("B200", 183_359, {"48xlarge": 8}),
}
"""By family: the GPU's name and nominal MiB as EC2 announces them, and the GPUs of each size."""

KNOWN_TYPES = tuple(f"{family}.{size}" for family, (_, _, sizes) in _SIZES.items() for size in sizes)
"""Every type of the table, by family, the smallest first."""


def known_gpus(instance_type: str) -> InstanceGpus | Unusable | None:
    """Return a type's GPUs by the table; None for a type that it does not have."""
    family, _, size = instance_type.partition(".")
    name, nominal, sizes = _SIZES.get(family, ("", 0, {}))
    if size not in sizes:
        return None
    return _checked(instance_type, name, nominal, sizes[size])


def describe_gpus(described: Mapping[str, Any]) -> InstanceGpus | Unusable:
    """Return the GPUs of a type as EC2 describes it. described: an element of DescribeInstanceTypes' InstanceTypes."""
    instance_type = str(described.get("InstanceType", ""))
    try:
        devices = described.get("GpuInfo", {}).get("Gpus", [])
        architectures = described.get("ProcessorInfo", {}).get("SupportedArchitectures", [NODE_ARCHITECTURE])
        if NODE_ARCHITECTURE not in architectures:
            return Unusable(instance_type, f"is {', '.join(architectures)}, and nodes are {NODE_ARCHITECTURE}")
        if not devices or any(device.get("Manufacturer") != "NVIDIA" for device in devices):
            return Unusable(instance_type, "has no NVIDIA GPU, which vLLM runs on here")
        (device,) = devices
        name, nominal = str(device["Name"]), int(device["MemoryInfo"]["SizeInMiB"])
        return _checked(instance_type, name, nominal, int(device.get("Count", 0)))
    except (ValueError, KeyError, TypeError, AttributeError):
        return Unusable(instance_type, "is described by EC2 in a way that is not known here")


def _checked(instance_type: str, name: str, nominal_mib: int, count: int) -> InstanceGpus | Unusable:
    if count == 0:
        return Unusable(instance_type, f"has a fraction of a GPU ({name}), which vLLM's memory check does not expect")
    fact = _FACTS.get(name)
    if fact is not None and fact.capability < MIN_CAPABILITY:
        return Unusable(instance_type, f"has GPUs ({name}) that CUDA 13 does not run, and with it vLLM")
    share, capability = (fact.share, fact.capability) if fact else (_OTHER_SHARE, None)
    return InstanceGpus(instance_type, Gpu(name, int(nominal_mib * MIB * share), capability), count)
