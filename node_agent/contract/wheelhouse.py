"""The wheelhouse: what nodes install, in the models bucket, so that they need no package index.

It has three sets. Each lies under `bin/wheels/<name>-<digest of its lock files>/`, with a manifest as a model's, which
is written last. stacks/boot/install.sh computes the same names. Nodes compare every file with the hashes of the lock
files of their release, not with the manifest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from node_agent.contract.models import MANIFEST

PREFIX = "bin/wheels/"
PYTHON_PIN = "python.txt"
"""The lock file of CPython: one line as of sha256sum, with the path below the releases of python-build-standalone."""


@dataclass(frozen=True)
class PackageSet:
    """A set. name: such as agent; requirements: the lock file of its wheels; prefix: of its objects' keys."""

    name: str
    requirements: str
    prefix: str

    @property
    def manifest_key(self) -> str:
        """The key of its manifest: the object that exists only where the set is complete."""
        return self.prefix + MANIFEST


_SETS = {"tools": ("bootstrap.txt", PYTHON_PIN), "agent": ("agent.txt",), "engine": ("engine.txt",)}
"""The lock files of each set; the first one has its wheels. tools: uv, and CPython."""


def package_sets(read: Callable[[str], bytes]) -> tuple[PackageSet, ...]:
    """Return the sets of a release. read: returns the content of a lock file, by its name."""
    found = []
    for name, locks in _SETS.items():
        digest = hashlib.sha256(b"".join(read(lock) for lock in locks)).hexdigest()[:16]
        found.append(PackageSet(name, locks[0], f"{PREFIX}{name}-{digest}/"))
    return tuple(found)
