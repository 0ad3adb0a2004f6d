"""Makes the containers' root once, in the cache: Debian by debootstrap, and the stand-in for the engine's environment.

A container never writes to it: each has an overlay of its own.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from local.boot.commands import call
from local.boot.image import engine_script
from local.boot.paths import ENGINE_FOLDER
from local.cache import build_once, cache_dir, require_space
from local.errors import LocalRunError

SUITE = "bookworm"
PACKAGES = (
    "systemd", "systemd-sysv", "dbus", "python3", "python3-venv", "cloud-init", "awscli", "curl", "ca-certificates",
    "logrotate", "iproute2", "procps",
    "libnuma1",  # of vLLM on a CPU
    "gcc", "libpython3.11-dev",  # without a C compiler and Python's headers, no node starts
    "python3-cffi-backend",  # debootstrap does not see that it provides what python3-cryptography depends on
)  # fmt: skip
"""What AWS's GPU image has and the boot scripts call. Not there: NVIDIA's driver, the agents of SSM and CloudWatch."""

_NOT_NEEDED = ("usr/share/doc", "usr/share/man", "usr/share/locale", "var/cache/apt/archives", "var/lib/apt/lists")
_REQUIRED_GIB = 2.0
_ENVIRON = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "DEBIAN_FRONTEND": "noninteractive"}
"""Of programs in the new root, which has nothing of this machine's."""

_TIMEOUT_S = 1_800.0


def ensure_root(packages: Path, log: Callable[[str], None]) -> Path:
    """Return the root's folder. packages: of local/boot/packages. Raises LocalRunError."""
    inputs = [SUITE, *PACKAGES, engine_script(), (packages / "stand-in.txt").read_text()]
    digest = hashlib.sha256("\n".join(inputs).encode()).hexdigest()[:12]
    return build_once(f"boot-root-{digest}", lambda folder: _build(folder, packages, log)) / "root"


def _build(folder: Path, packages: Path, log: Callable[[str], None]) -> None:
    require_space(_REQUIRED_GIB)
    root = folder / "root"
    log(f"the containers' root: Debian ({SUITE}) by debootstrap (once, some minutes)")
    debs = cache_dir() / "boot-debs"  # an interrupted build downloads nothing twice
    debs.mkdir(exist_ok=True)
    make = ["debootstrap", "--variant=minbase", f"--cache-dir={debs}", f"--include={','.join(PACKAGES)}"]
    try:
        call([*make, SUITE, str(root)], _TIMEOUT_S, _ENVIRON)
    except LocalRunError as error:
        raise LocalRunError(f"{error}\ncheck the network, and that the cache's disk is not mounted nodev") from error
    for name in _NOT_NEEDED:
        shutil.rmtree(root / name, ignore_errors=True)
        (root / name).mkdir(parents=True)
    log("the containers' root: the stand-in engine's environment")
    inside = root / "tmp" / "packages"
    shutil.copytree(packages, inside)
    call(["chroot", str(root), "python3", "-m", "venv", ENGINE_FOLDER], environ=_ENVIRON)
    pip = [f"{ENGINE_FOLDER}/bin/python", "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    lock = ["--find-links", "/tmp/packages", "--require-hashes", "--requirement", "/tmp/packages/stand-in.txt"]
    call(["chroot", str(root), *pip, *lock], _TIMEOUT_S, _ENVIRON)
    shutil.rmtree(inside)
    engine = root / ENGINE_FOLDER.lstrip("/")
    script = engine / "bin" / "vllm"
    script.write_text(engine_script())
    os.chmod(script, 0o755)  # noqa: S103 # a program
    (engine / ".installed").touch()
