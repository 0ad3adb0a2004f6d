"""What an instance is told at its first boot: a few settings, and where the agent's archive is.

Everything that changes what a node *is* goes into its version: the archive (agent, lock files, boot scripts), the
model, the engine's arguments. The instances carry it as a tag, and a new one makes the group replace its instances.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from pathlib import Path

from node_agent.contract import names
from stacks.constructs.artifact import Artifact
from stacks.settings import FleetSettings
from stacks.state_stack import StateStack

_FIRST = (Path(__file__).parents[1] / "boot" / "first.sh").read_text()
_LINGER_S = 30
"""A drained node goes on forwarding for that long where a load balancer is: two failed checks at 5 s each, and what
Elastic Load Balancing takes until all its nodes have heard."""

MAX_USER_DATA_BYTES = 16_384
"""EC2's own limit, before base64."""


def version(settings: FleetSettings, artifact: Artifact) -> str:
    """Twelve hexadecimal digits; the same wherever it is computed."""
    told = [artifact.sha256, _FIRST, *_model(settings).values(), settings.image_id, str(settings.bake_image)]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:12]


def boot_variables(settings: FleetSettings, artifact: Artifact, state: StateStack, region: str) -> dict[str, str]:
    """/etc/synkti/boot.env: what the boot scripts need."""
    return {
        "SYNKTI_CLUSTER": settings.cluster,
        "SYNKTI_VERSION": version(settings, artifact),
        "SYNKTI_AGENT_URL": artifact.url,
        "SYNKTI_AGENT_SHA256": artifact.sha256,
        "SYNKTI_MODELS_BUCKET": state.models.bucket_name,
        "SYNKTI_CHECKPOINTS_BUCKET": state.checkpoints.bucket_name,
        **_model(settings),
        "SYNKTI_LINGER_S": str(_LINGER_S if settings.load_balancer != "none" else 0),
        "SYNKTI_ALLOWED_ORIGINS": ",".join(settings.allowed_origins),
        "SYNKTI_GROUP": names.auto_scaling_group_name(settings.cluster),
        "SYNKTI_READY_HOOK": names.READY_HOOK,
        "SYNKTI_READY_WITHIN_S": str(settings.ready_within_s),
        "SYNKTI_KEEP_FAILED_NODES": str(settings.keep_failed_nodes).lower(),
        "SYNKTI_LOG_GROUP": names.node_log_group_name(settings.cluster),
        "SYNKTI_METRICS_NAMESPACE": names.METRICS_NAMESPACE,
        "SYNKTI_IN_FLIGHT_METRIC": names.IN_FLIGHT_METRIC,
        "AWS_REGION": region,
        "AWS_DEFAULT_REGION": region,
    }


def user_data(variables: dict[str, str]) -> str:
    """A shell script: the variables as a file that a shell and systemd read alike, then first.sh."""
    lines = "\n".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())
    return (
        "#!/bin/bash\n"
        'mkdir -p "${SYNKTI_ROOT:-}/etc/synkti"\n'
        "cat >\"${SYNKTI_ROOT:-}/etc/synkti/boot.env\" <<'VARIABLES'\n"
        f"{lines}\nVARIABLES\n"
        f"{_FIRST}"
    )


def _model(settings: FleetSettings) -> dict[str, str]:
    return {
        "SYNKTI_MODEL_NAME": settings.model,
        "SYNKTI_MODEL_SHA256": settings.model_sha256,
        "SYNKTI_MODEL_LOAD": settings.model_load,
        "SYNKTI_ENGINE_ARGS": json.dumps(settings.engine_args),
        "SYNKTI_KV_MAX_BYTES": str(settings.kv_gib * 1024**3),
    }
