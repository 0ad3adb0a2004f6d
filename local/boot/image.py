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
from local.boot.paths import CODE_FOLDER, ENGINE_ERROR, ENGINE_FOLDER
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

    has_instance_store: a disk is mounted where AWS's GPU image mounts the instance's own.
    """

    engine_error: str = ""
    has_instance_store: bool = False


def image_files(hosts: Sequence[str], authority: str, variant: Variant) -> dict[str, str]:
    """Return each file's path and content. Pure.

    Args:
        hosts: the names of AWS's services, which resolve to the bridge.
        authority: the certificate of this run's authority, PEM.
        variant: the instance's.

    Returns:
        By path, relative to the root.
    """
    files = {
        "etc/hosts": "127.0.0.1 localhost\n" + "".join(f"{GATEWAY} {host}\n" for host in hosts),
        "etc/resolv.conf": "",
        "etc/machine-id": "",
        _AUTHORITY[1:]: authority,
        "etc/systemd/system.conf.d/90-boot.conf": f"[Manager]\nDefaultEnvironment=AWS_CA_BUNDLE={_AUTHORITY}\n",
        _UUID_FILE[1:]: f"{_UUID}\n",
        **{f"etc/systemd/system/{unit}.d/ec2.conf": _EC2_DROP_IN for unit in _EC2_UNITS},
        "etc/cloud/cloud.cfg.d/90-boot.cfg": _CLOUD_INIT,
    }
    if variant.engine_error:
        files[ENGINE_ERROR[1:]] = variant.engine_error
    return files


def image_links() -> dict[str, str]:
    """Return each symbolic link and its target: the engine's environment under the name that install.sh gives it."""
    locks = (ROOT / "requirements" / name for name in ("engine.txt", PYTHON_PIN))
    digest = hashlib.sha256(b"".join(lock.read_bytes() for lock in locks)).hexdigest()[:16]
    return {
        f"opt/synkti/env/engine-{digest}": ENGINE_FOLDER,
        "etc/systemd/system/console-getty.service": "/dev/null",
    }


def engine_script() -> str:
    """Return the `vllm` of the stand-in's environment."""
    python = shlex.quote(f"{ENGINE_FOLDER}/bin/python")
    return f'#!/bin/sh\nPYTHONPATH={CODE_FOLDER} exec {python} -m local.boot.stand_in_vllm "$@"\n'


def write_image(root: Path, files: dict[str, str], links: dict[str, str]) -> None:
    """Write files and links below `root`. Raises OSError."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)  # resolv.conf may be a link to a file of another machine
        path.write_text(text)
    for name, target in links.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.symlink_to(target)
