"""One emulated instance: a loopback address, an IMDS stand-in, and the node agent that would boot there."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from local.imds import ImdsServer, InstanceMetadata
from local.processes import kill_all_in, start

_AGENT = [sys.executable, "-m", "node_agent"]
FRONT_PORT, PEER_PORT, ENGINE_PORT = 8000, 8001, 8002

EngineCommand = Callable[[str, int], list[str]]
"""host, port -> the engine's command."""


@dataclass(frozen=True)
class MachineKind:
    """What all instances of a run have in common. environ: of the agent and its engine."""

    cluster: str
    model: str
    model_dir: str
    engine: EngineCommand
    environ: dict[str, str]
    folder: Path
    logs: Path


class Machine:
    """Boots on construction; `agent` is its process."""

    def __init__(self, kind: MachineKind, metadata: InstanceMetadata) -> None:
        self.metadata = metadata
        self.instance_id = metadata.instance_id
        self.host = metadata.address
        self.folder = kind.folder / metadata.instance_id
        self.log = kind.logs / f"{metadata.instance_id}.log"
        self.killed = False
        self._imds = ImdsServer(metadata)
        self.agent: subprocess.Popen[bytes] = start(_AGENT, self.folder, self._environ(kind), self.log)

    def _environ(self, kind: MachineKind) -> dict[str, str]:
        root = str(Path(__file__).parent.parent)
        command = ", ".join(f'"{word}"' for word in kind.engine(self.host, ENGINE_PORT))
        return {
            **kind.environ,
            "PYTHONPATH": root,
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": self._imds.url,
            "SYNKTI_CLUSTER": kind.cluster,
            "SYNKTI_MODEL_NAME": kind.model,
            "SYNKTI_MODEL_DIR": kind.model_dir,
            "SYNKTI_FRONT_HOST": self.host,
            "SYNKTI_PEER_HOST": self.host,
            "SYNKTI_ENGINE_HOST": self.host,
            "SYNKTI_ENGINE_COMMAND": f"[{command}]",
            "SYNKTI_ADVERTISE_ADDRESS": f"{self.host}:{PEER_PORT}",
            "SYNKTI_STATE_DIR": str(self.folder),
        }

    @property
    def url(self) -> str:
        return f"http://{self.host}:{FRONT_PORT}"

    @property
    def running(self) -> bool:
        return self.agent.poll() is None

    def give_notice(self, lead_s: float) -> None:
        """What IMDS says from now on."""
        self.metadata.deadline = time.time() + lead_s

    def kill(self) -> None:
        """The whole machine at once: agent, engine and all that they started."""
        self.killed = True
        kill_all_in(self.folder)
        self.agent.wait()

    def close(self) -> None:
        """What is left of it, and its metadata."""
        kill_all_in(self.folder)
        self.agent.wait()
        self._imds.close()
