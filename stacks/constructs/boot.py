"""Render an instance's user data: a few settings, and the address and hash of the agent's archive.

A node's version is a hash of every setting that changes its launch template: the archive (agent, lock files, boot
scripts), the model, the engine's arguments, the instance types (the smallest one sets the context length), the
variables of the boot, the image, the instance. Instances carry it as a tag. A changed template makes the group replace
its instances, so both have to change together: otherwise a deployment would count nodes that are about to be replaced,
or wait for nodes that are not replaced.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from pathlib import Path

from node_agent.contract import environment as env
from node_agent.contract import names
from stacks.constructs.artifact import Artifact
from stacks.settings import FleetSettings
from stacks.state_stack import StateStack

_FIRST_BOOT_SCRIPT = (Path(__file__).parents[1] / "boot" / "first.sh").read_text()
_LINGER_S = 30
"""How long a drained node still forwards requests where there is a load balancer: two failed health checks at 5 s
each, and the time that Elastic Load Balancing needs to propagate the result to all its nodes."""

_AUDIT_LOG = "/var/lib/synkti/audit.log"
"""In the agent's own folder; CloudWatch's agent reads it there (stacks/boot/cloudwatch-agent.json)."""

MAX_USER_DATA_BYTES = 16_384
"""EC2's limit, before base64 encoding."""


def version(settings: FleetSettings, artifact: Artifact) -> str:
    """Return the version as twelve hexadecimal digits. The result does not depend on the machine."""
    inputs = [
        artifact.sha256,
        _FIRST_BOOT_SCRIPT,
        *_model_variables(settings).values(),
        *_node_variables(settings).values(),
        settings.image_id or settings.base_image_id,
        str(settings.bake_image),
        settings.root_gib,
        settings.root_mib_per_s,
        settings.root_initialization_mib_per_s,
        settings.public_addresses,
    ]
    return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()[:12]


def boot_variables(settings: FleetSettings, artifact: Artifact, state: StateStack, region: str) -> dict[str, str]:
    """Return the variables of /etc/synkti/boot.env, which the boot scripts read."""
    return {
        env.CLUSTER: settings.cluster,
        "SYNKTI_VERSION": version(settings, artifact),
        "SYNKTI_AGENT_URL": artifact.url,
        "SYNKTI_AGENT_SHA256": artifact.sha256,
        env.MODELS_BUCKET: state.models.bucket_name,
        "SYNKTI_CHECKPOINTS_BUCKET": state.checkpoints.bucket_name,
        **_model_variables(settings),
        **_node_variables(settings),
        env.GROUP: names.auto_scaling_group_name(settings.cluster),
        "SYNKTI_READY_HOOK": names.READY_HOOK,
        "SYNKTI_LOG_GROUP": names.node_log_group_name(settings.cluster),
        "AWS_REGION": region,
        "AWS_DEFAULT_REGION": region,
    }


def user_data(variables: dict[str, str]) -> str:
    """Return a shell script that writes the variables as a file for shells and systemd, followed by first.sh."""
    lines = "\n".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())
    return (
        "#!/bin/bash\n"
        'mkdir -p "${SYNKTI_ROOT:-}/etc/synkti"\n'
        "cat >\"${SYNKTI_ROOT:-}/etc/synkti/boot.env\" <<'VARIABLES'\n"
        f"{lines}\nVARIABLES\n"
        f"{_FIRST_BOOT_SCRIPT}"
    )


def _node_variables(settings: FleetSettings) -> dict[str, str]:
    return {
        "SYNKTI_LINGER_S": str(_LINGER_S if settings.load_balancer != "none" else 0),
        "SYNKTI_ADMIN_HOST": "0.0.0.0" if settings.metrics_cidrs else "127.0.0.1",  # noqa: S104 # the security group
        "SYNKTI_PEER_TLS": "on" if settings.peer_tls else "off",
        "SYNKTI_API_KEYS": _client_keys(settings),
        "SYNKTI_AUDIT_LOG": _AUDIT_LOG if settings.audit_log else "off",
        "SYNKTI_UI": "on" if settings.ui else "off",
        "SYNKTI_ALLOWED_ORIGINS": ",".join(settings.allowed_origins),
        "SYNKTI_ALLOWED_ROUTES": ",".join(settings.allowed_routes),
        "SYNKTI_ALLOWED_FIELDS": ",".join(settings.allowed_fields),
        "SYNKTI_ALLOWED_MEDIA_DOMAINS": ",".join(settings.allowed_media_domains),
        "SYNKTI_MAX_DATA_URL_BYTES": str(settings.max_data_url_kib * 1024),
        "SYNKTI_CACHE_SALT": settings.cache_salt,
        "SYNKTI_READY_WITHIN_S": str(settings.ready_within_s),
        "SYNKTI_COMPILE_CACHES": str(settings.compile_caches).lower(),
        "SYNKTI_KEEP_FAILED_NODES": str(settings.keep_failed_nodes).lower(),
    }


def _client_keys(settings: FleetSettings) -> str:
    """Return where nodes read clients' keys."""
    if not settings.api_keys:
        return "off"
    return f"secret:{names.client_keys_secret_name(settings.cluster)}"


def _model_variables(settings: FleetSettings) -> dict[str, str]:
    return {
        env.MODEL_NAME: settings.model,
        env.MODEL_SHA256: settings.model_sha256,
        env.MODEL_LOAD: settings.model_load,
        env.ENGINE_ARGS: json.dumps(settings.engine_args),
        # A node's context length is that of the fleet's smallest type.
        env.INSTANCE_TYPES: ",".join(settings.instance_types),
        "SYNKTI_KV_MAX_BYTES": str(settings.kv_gib * 1024**3),
    }
