"""Emulates one instance: a loopback address, a fake IMDS, and the node agent that would boot there."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from local import imds
from local.aws import ACCOUNT, REGION
from local.controlled_instance import ControlledInstance
from local.errors import UserActionRequired
from local.imds import InstanceMetadata
from local.process_cleanup import kill_all_in, start
from local.protection import UNPROTECTED, Protection
from node_agent.contract.names import (
    ADMIN_PORT,
    ENGINE_PORT,
    FRONT_DOOR_PORT,
    PEER_DOOR_PORT,
    checkpoints_bucket_name,
)

_ROOT = str(Path(__file__).parent.parent)
AGENT = (sys.executable, "-m", "node_agent")
PORTS = (FRONT_DOOR_PORT, PEER_DOOR_PORT, ENGINE_PORT, ADMIN_PORT, imds.PORT)

EngineCommand = Callable[[str, int], list[str]]
"""host, port -> the engine's command."""


@dataclass(frozen=True)
class InstanceTemplate:
    """What all instances of a run share.

    environ: of the agent and its engine; agent: the agent's command; protection: of the fleet's clients and nodes.
    """

    cluster: str
    model: str
    model_dir: str
    engine_command: EngineCommand
    environ: dict[str, str]
    folder: Path
    logs: Path
    agent: Sequence[str] = AGENT
    protection: Protection = UNPROTECTED


_NETWORK_ATTEMPTS = 5


def free_network() -> str:
    """Return the first three numbers of a run's loopback addresses.

    Returns:
        Such as "127.150.70"; on its first address all of PORTS are free.

    Raises:
        UserActionRequired: a program listens on one of PORTS on all addresses.
    """
    for _ in range(_NETWORK_ATTEMPTS):
        network = f"127.{secrets.randbelow(100) + 100}.{secrets.randbelow(200) + 10}"
        taken = [port for port in PORTS if not _is_free(f"{network}.1", port)]
        if not taken:
            return network
    raise UserActionRequired(
        f"a program on this machine listens on port {taken[0]} of all addresses, which every emulated instance needs; "
        f"end it (ss -ltnp 'sport = :{taken[0]}' names it) and run again"
    )


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


class EmulatedInstance(ControlledInstance):
    """An instance that boots on construction; `agent` is its process. version: of its launch template."""

    def __init__(self, template: InstanceTemplate, metadata: InstanceMetadata, version: str = "") -> None:
        # Outside the instance's folder: the metadata service survives a kill of the instance, as in EC2.
        self._imds_folder = template.folder / f"{metadata.instance_id}.imds"
        super().__init__(self._imds_folder / "metadata.json", metadata)
        self.instance_id = metadata.instance_id
        self.host = metadata.address
        self.folder = template.folder / metadata.instance_id
        self.log = template.logs / f"{metadata.instance_id}.log"
        self.killed = False
        self.version = version
        environ = {**os.environ, "PYTHONPATH": _ROOT}
        command = [sys.executable, "-m", "local.imds", str(self._imds_file)]
        self._imds = start(command, self._imds_folder, environ, self.log)
        self.agent: subprocess.Popen[bytes] = start(template.agent, self.folder, self._environ(template), self.log)

    def _environ(self, template: InstanceTemplate) -> dict[str, str]:
        return {
            **template.environ,
            **template.protection.environ,
            "PYTHONPATH": _ROOT,
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": imds.url(self.host),
            "SYNKTI_CLUSTER": template.cluster,
            "SYNKTI_MODEL_NAME": template.model,
            "SYNKTI_MODEL_DIR": template.model_dir,
            "SYNKTI_FRONT_HOST": self.host,
            "SYNKTI_PEER_HOST": self.host,
            "SYNKTI_ADMIN_HOST": self.host,
            "SYNKTI_ENGINE_HOST": self.host,
            "SYNKTI_ENGINE_COMMAND": json.dumps(template.engine_command(self.host, ENGINE_PORT)),
            "SYNKTI_ADVERTISE_ADDRESS": f"{self.host}:{PEER_DOOR_PORT}",
            "SYNKTI_STATE_DIR": str(self.folder),
            "SYNKTI_CHECKPOINTS_BUCKET": checkpoints_bucket_name(template.cluster, ACCOUNT, REGION),
        }

    @property
    def running(self) -> bool:
        """True while the agent's process lives."""
        return self.agent.poll() is None

    def scale_in(self) -> None:
        """Request termination by the group: the agent drains in its own time."""
        super().scale_in()
        self.agent.terminate()

    def signal_imds(self, signum: signal.Signals) -> None:
        """Stop its metadata service (SIGSTOP), or let it continue (SIGCONT)."""
        self._imds.send_signal(signum)

    def wait(self) -> int:
        """Wait until the agent has ended; return its status as Popen's."""
        return self.agent.wait()

    def kill(self) -> None:
        """Kill the whole instance at once: agent, engine and all that they started."""
        self.killed = True
        kill_all_in(self.folder)
        self.agent.wait()

    def close(self) -> None:
        """End what is left of the instance, and its metadata service."""
        kill_all_in(self.folder)
        self.agent.wait()
        self._imds.kill()
        self._imds.wait()
