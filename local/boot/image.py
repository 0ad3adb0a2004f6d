"""The settings of the machine image that a container boots: what AWS's image and network have, or stands in for it.

None of the project's files is in it: these come with the user data, as on EC2.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from local.boot.network import GATEWAY
from local.boot.paths import CODE_FOLDER, ENGINE_ERROR, ENGINE_FOLDER, UV_DOWNLOADS, VLLM_FOLDER
from local.deploy import ROOT
from node_agent.contract.wheelhouse import PYTHON_PIN

_AUTHORITY = "/etc/ssl/synkti-boot.pem"
_UUID = "ec2e1916-9099-7caf-fd21-012345abcdef"

_UUID_FILE = "/etc/synkti-boot/uuid"
_EC2_UNITS = ("cloud-init-local.service", "cloud-init.service")
_EC2_DROP_IN = f"""\
# cloud-init takes a machine for one of EC2 by its UUID. In a container it reads only that of Xen, which the kernel of
# another hypervisor does not have.
[Service]
TemporaryFileSystem=/sys
BindReadOnlyPaths=/sys/block /sys/bus /sys/class /sys/dev /sys/devices /sys/fs /sys/kernel
BindReadOnlyPaths={_UUID_FILE}:/sys/hypervisor/uuid
"""

_SLOW_ENGINE = """\
# vLLM on a few busy cores: a healthy engine may be silent for seconds, and need half a second to acknowledge a record.
[Service]
Environment=SYNKTI_MIN_SILENCE_S=10 SYNKTI_REPLICA_LAG_S=0.5
"""

_VLLM_ENVIRON = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "01",
}
"""As local/engines starts it, where the reasons are."""

_VLLM_ARGUMENTS = "--dtype float32 --enforce-eager --max-num-seqs 16 --distributed-executor-backend uni"

IMAGE_PYTHON = "3.11"
"""Debian 12's, with which the engines' environments run. The agent's has the CPython of the wheelhouse."""

_CLOUD_INIT = """\
# As Ubuntu's image for EC2. The network is there already: a container has no DHCP.
datasource_list: [Ec2]
datasource: {Ec2: {max_wait: 60, timeout: 5}}
network: {config: disabled}
locale: false
"""


@dataclass(frozen=True)
class Variant:
    """How an instance differs from others. engine_error: the words with which its engine ends at its start.

    has_instance_store: a disk is mounted where AWS's GPU image mounts the instance's own; has_headers: the image has
    Python's headers; has_vllm: its engine is a real vLLM on this machine's CPU.
    """

    engine_error: str = ""
    has_instance_store: bool = False
    has_headers: bool = True
    has_vllm: bool = False


@dataclass(frozen=True)
class Image:
    """What a variant's image has beside the cached root. Paths are relative to the root.

    files: contents; links: targets of symbolic links; programs: those of `files` that may be run; absent: files of the
    root that it does not have.
    """

    files: dict[str, str]
    links: dict[str, str]
    programs: frozenset[str] = frozenset()
    absent: tuple[str, ...] = ()


def image_of(hosts: Sequence[str], authority: str, uv_downloads: str, variant: Variant) -> Image:
    """Return what the variant's image has. Reads the lock files of this checkout.

    Args:
        hosts: the names of AWS's services, which resolve to the bridge.
        authority: the certificate of this run's authority, PEM.
        uv_downloads: uv's document of archives that it accepts; empty for its own.
        variant: the instance's.
    """
    files, links = image_files(hosts, authority, uv_downloads, variant), image_links(variant)
    absent = () if variant.has_headers else (f"usr/include/python{IMAGE_PYTHON}/Python.h",)
    if not variant.has_vllm:
        return Image(files, links, absent=absent)
    vllm = VLLM_FOLDER[1:]
    program = f"{vllm}/bin/vllm"
    files |= {
        program: vllm_script(),
        f"{vllm}/pyvenv.cfg": f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {IMAGE_PYTHON}\n",
        f"{vllm}/.installed": "",
        "etc/systemd/system/synkti.service.d/slow-engine.conf": _SLOW_ENGINE,
    }
    links |= {f"{vllm}/bin/{name}": f"/usr/bin/python{IMAGE_PYTHON}" for name in ("python", f"python{IMAGE_PYTHON}")}
    return Image(files, links, frozenset({program}), absent)


def image_files(hosts: Sequence[str], authority: str, uv_downloads: str, variant: Variant) -> dict[str, str]:
    """Return each file's path and content. Pure. Arguments as of `image_of`."""
    variables = f"AWS_CA_BUNDLE={_AUTHORITY}"
    if uv_downloads:
        variables += f" UV_PYTHON_DOWNLOADS_JSON_URL={UV_DOWNLOADS}"
    files = {
        "etc/hosts": "127.0.0.1 localhost\n" + "".join(f"{GATEWAY} {host}\n" for host in hosts),
        "etc/resolv.conf": "",
        "etc/machine-id": "",
        _AUTHORITY[1:]: authority,
        "etc/systemd/system.conf.d/90-boot.conf": f"[Manager]\nDefaultEnvironment={variables}\n",
        _UUID_FILE[1:]: f"{_UUID}\n",
        **{f"etc/systemd/system/{unit}.d/ec2.conf": _EC2_DROP_IN for unit in _EC2_UNITS},
        "etc/cloud/cloud.cfg.d/90-boot.cfg": _CLOUD_INIT,
    }
    if variant.engine_error:
        files[ENGINE_ERROR[1:]] = variant.engine_error
    if uv_downloads:
        files[UV_DOWNLOADS[1:]] = uv_downloads
    return files


def image_links(variant: Variant) -> dict[str, str]:
    """Return each symbolic link and its target: the engine's environment under the name that install.sh gives it."""
    locks = (ROOT / "requirements" / name for name in ("engine.txt", PYTHON_PIN))
    digest = hashlib.sha256(b"".join(lock.read_bytes() for lock in locks)).hexdigest()[:16]
    return {
        f"opt/synkti/env/engine-{digest}": VLLM_FOLDER if variant.has_vllm else ENGINE_FOLDER,
        "etc/systemd/system/console-getty.service": "/dev/null",
    }


def engine_script() -> str:
    """Return the `vllm` of the stand-in's environment."""
    python = shlex.quote(f"{ENGINE_FOLDER}/bin/python")
    return f'#!/bin/sh\nPYTHONPATH={CODE_FOLDER} exec {python} -m local.boot.stand_in_vllm "$@"\n'


def vllm_script() -> str:
    """Return the `vllm` of an environment with a real one: the agent's arguments, and what a CPU needs."""
    variables = " ".join(f"{name}={value}" for name, value in _VLLM_ENVIRON.items())
    python = shlex.quote(f"{VLLM_FOLDER}/bin/python")
    return f'#!/bin/sh\nexport {variables}\nexec {python} -m vllm.entrypoints.cli.main "$@" {_VLLM_ARGUMENTS}\n'


def write_image(root: Path, image: Image) -> None:
    """Write an image's files and links below `root`. Raises OSError."""
    for name, text in image.files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)  # resolv.conf may be a link to a file of another machine
        path.write_text(text)
        if name in image.programs:
            path.chmod(0o755)
    for name, target in image.links.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.symlink_to(target)
    for name in image.absent:
        (root / name).unlink()
