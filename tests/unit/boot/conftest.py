"""An instance for the boot scripts: a folder in the place of /, and programs that write down how they were called.

The scripts run as they are, under bash. What they call of the system (aws, systemctl, ...) is a stand-in that a test
gives answers to; what they do to files happens in the folder.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
BOOT = ROOT / "stacks" / "boot"
NODE = "i-0123456789abcdef0"
STAND_IN = """#!/bin/bash
printf '%s\\n' "$(basename "$0") $*" >>"$CALLS"
answer=$ANSWERS/$(basename "$0")
[ -x "$answer" ] && exec "$answer" "$@"
exit 0
"""
PROGRAMS = (
    "aws",
    "systemctl",
    "curl",
    "journalctl",
    "useradd",
    "mountpoint",
    "sleep",
    "id",
    "nvidia-modprobe",
    "cc",
    "runuser",
)
VARIABLES = {
    "SYNKTI_CLUSTER": "synkti",
    "SYNKTI_VERSION": "0123456789ab",
    "SYNKTI_AGENT_URL": "s3://assets/agent.tar",
    "SYNKTI_AGENT_SHA256": "",
    "SYNKTI_MODELS_BUCKET": "synkti-models",
    "SYNKTI_CHECKPOINTS_BUCKET": "synkti-checkpoints",
    "SYNKTI_MODEL_NAME": "tiny",
    "SYNKTI_MODEL_SHA256": "",
    "SYNKTI_MODEL_LOAD": "download",
    "SYNKTI_ENGINE_ARGS": '["--max-model-len", "8192"]',
    "SYNKTI_KV_MAX_BYTES": "0",
    "SYNKTI_GROUP": "synkti-fleet",
    "SYNKTI_LINGER_S": "0",
    "SYNKTI_ADMIN_HOST": "127.0.0.1",
    "SYNKTI_PEER_TLS": "on",
    "SYNKTI_API_KEYS": "secret:synkti/client-keys",
    "SYNKTI_AUDIT_LOG": "/var/lib/synkti/audit.log",
    "SYNKTI_UI": "on",
    "SYNKTI_ALLOWED_ORIGINS": "",
    "SYNKTI_ALLOWED_ROUTES": "/tokenize",
    "SYNKTI_ALLOWED_FIELDS": "",
    "SYNKTI_ALLOWED_MEDIA_DOMAINS": "",
    "SYNKTI_MAX_DATA_URL_BYTES": "0",
    "SYNKTI_CACHE_SALT": "shared",
    "SYNKTI_READY_HOOK": "ready",
    "SYNKTI_READY_WITHIN_S": "2",
    "SYNKTI_KEEP_FAILED_NODES": "false",
    "SYNKTI_COMPILE_CACHES": "false",
    "SYNKTI_LOG_GROUP": "/synkti/synkti/nodes",
    "AWS_REGION": "us-east-1",
}


@dataclass
class Instance:
    """root: in the place of /; variables: those of boot.env."""

    root: Path
    variables: dict[str, str] = field(default_factory=lambda: dict(VARIABLES))

    @property
    def calls(self) -> list[str]:
        """What was called, in order, without waiting."""
        path = self.root / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for line in lines if not line.startswith(("sleep", "curl -sf --max-time 2"))]

    def answers(self, program: str, script: str) -> None:
        """From now on, the program is this bash script; it gets $CALLS and its own arguments."""
        path = self.root / "answers" / program
        path.write_text(f"#!/bin/bash\n{script}\n")
        path.chmod(0o755)

    def run(self, script: str, *arguments: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        return self.shell(str(BOOT / script), *arguments, timeout_s=timeout_s)

    def shell(self, *command: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        environ = {
            **self.variables,
            "PATH": f"{self.root / 'programs'}:{os.environ['PATH']}",
            "SYNKTI_ROOT": str(self.root),
            "CALLS": str(self.root / "calls"),
            "ANSWERS": str(self.root / "answers"),
        }
        return subprocess.run(
            ["bash", *command], env=environ, capture_output=True, text=True, check=False, timeout=timeout_s
        )


@pytest.fixture
def instance(tmp_path: Path) -> Instance:
    made = Instance(tmp_path)
    for folder in ("programs", "answers", "etc/synkti", "etc/systemd/system", "etc/logrotate.d", "opt/synkti", "var"):
        (tmp_path / folder).mkdir(parents=True)
    for program in PROGRAMS:
        path = tmp_path / "programs" / program
        path.write_text(STAND_IN)
        path.chmod(0o755)
    # IMDS: a token, and who this is. Everything else is not answered, as by a node that does not serve.
    made.answers("curl", f'case "$*" in *api/token*) echo token;; *instance-id*) echo {NODE};; *) exit 22;; esac')
    made.answers("mountpoint", "exit 1")
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal:       16077104 kB\nMemFree:          100000 kB\n")
    return made


def unit(name: str) -> dict[str, list[str]]:
    """A systemd unit's settings, each with its values in order."""
    settings: dict[str, list[str]] = {}
    for line in (BOOT / name).read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            settings.setdefault(key, []).append(value)
    return settings


def arguments_of(path: Path) -> list[str]:
    """The engine's further arguments, as node.env has them."""
    (line,) = [line for line in path.read_text().splitlines() if line.startswith("SYNKTI_ENGINE_ARGS=")]
    found: list[str] = json.loads(line.partition("=")[2].strip("'"))
    return found
