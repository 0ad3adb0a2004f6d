"""An instance that really boots, as local/ec2_emulator runs it: a container, and its own IMDS."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from local import imds
from local.boot.cgroups import ContainerGroups
from local.boot.container import Container
from local.boot.image import Variant, image_of, write_image
from local.boot.network import namespace_path
from local.boot.paths import CODE_FOLDER, VLLM_FOLDER
from local.controlled_instance import ControlledInstance
from local.deploy import ROOT
from local.imds import InstanceMetadata
from local.process_cleanup import start

_STORE_MIB = 3_072
"""Of the machine's memory only what is written to it. A model's download wants 2 GiB free; packages pass through it."""

_STORE = "/opt/dlami/nvme"
"""Where AWS's GPU image mounts an instance's own disk."""


@dataclass(frozen=True)
class LaunchMetadata:
    """IMDS's values that all instances of a launch template have. role: of the instance profile, with its keys."""

    user_data: str
    role: str
    access_key: str
    secret_key: str


@dataclass
class MachineTemplate:
    """What all instances of a run share.

    root: the cached image; hosts, authority: of AWS's services; uv_downloads: uv's document of archives, empty for its
    own; vllm: the environment with vLLM on this machine, None without one; variants: of the next instances; booted: the
    number of instances so far.
    """

    root: Path
    folder: Path
    logs: Path
    groups: ContainerGroups
    hosts: list[str]
    authority: str
    metadata: LaunchMetadata
    uv_downloads: str = ""
    vllm: Path | None = None
    booted: int = 0
    variants: list[Variant] = field(default_factory=list)

    def next_variant(self) -> Variant:
        """Return the next instance's variant: the first of `variants`, which it removes, or the usual one."""
        return self.variants.pop(0) if self.variants else Variant()


class BootedInstance(ControlledInstance):
    """An instance that boots on construction. log: its console's; variant: how it differs from others."""

    def __init__(self, template: MachineTemplate, metadata: InstanceMetadata, version: str = "") -> None:
        self.instance_id = metadata.instance_id
        self.version = version
        self.killed = False
        self.variant = template.next_variant()
        self.launched_at = time.monotonic()
        self.log = template.logs / f"{metadata.instance_id}.log"
        folder = template.folder / metadata.instance_id
        template.logs.mkdir(parents=True, exist_ok=True)
        super().__init__(folder / "metadata.json", replace(metadata, **asdict(template.metadata)))
        self.container = Container(self.instance_id, folder, self.log, template.groups)
        self.container.mount(template.root)
        if self.variant.has_vllm and template.vllm is not None:
            self.container.mount_over(template.vllm, VLLM_FOLDER)
        image = image_of(template.hosts, template.authority, template.uv_downloads, self.variant)
        write_image(self.container.root, image)
        binds = {f"{CODE_FOLDER}/{name}": str(ROOT / name) for name in ("local", "node_agent")}
        disks = {_STORE: _STORE_MIB} if self.variant.has_instance_store else {}
        self.container.connect(metadata.address)
        self._imds = self._start_imds(folder)
        self.container.boot(binds, disks)
        template.booted += 1

    def _start_imds(self, folder: Path) -> subprocess.Popen[bytes]:
        command = [
            "nsenter", f"--net={namespace_path(self.instance_id)}",
            sys.executable, "-m", "local.imds", str(self._imds_file), imds.ADDRESS, str(imds.REAL_PORT),
        ]  # fmt: skip
        return start(command, folder, {**os.environ, "PYTHONPATH": str(ROOT)}, self.log)

    @property
    def running(self) -> bool:
        """True until it has powered off or was killed; also during a reboot."""
        return self.container.running

    def unit(self, name: str) -> dict[str, str]:
        """Return the properties of a unit, as systemd shows them. Raises LocalRunError."""
        lines = self.container.run(f"systemctl show {name}").splitlines()
        return {key: value for key, _, value in (line.partition("=") for line in lines)}

    def kill(self) -> None:
        """End it at once, as EC2 does at the deadline."""
        self.killed = True
        self.container.kill()

    def wait(self) -> int:
        """Wait until it has ended; return its status."""
        return self.container.wait()

    def close(self) -> None:
        """Remove it: container, network, disks, IMDS."""
        self.container.remove()
        self._imds.kill()
        self._imds.wait()
