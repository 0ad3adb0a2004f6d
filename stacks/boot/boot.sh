#!/bin/bash
# Sets up an instance as a node: dependencies, model, the agent's settings, the agent. synkti-boot.service runs it at
# every start of the instance. Every step is skipped where it is already done. All versions are pinned, and the SHA-256
# of packages and weights is verified.
set -euo pipefail
# shellcheck source=stacks/boot/instance.sh
. "$(dirname "$0")/instance.sh"
release=$home/current
state=$root/var/lib/synkti
id synkti >/dev/null 2>&1 || useradd --system --home-dir "$state" --shell /usr/sbin/nologin synkti

# A package upgrade may replace the driver's libraries under a loaded driver, after which no engine starts; needrestart
# may restart the agent. Nodes live for days and get new packages with a new image.
systemctl mask --quiet apt-daily.timer apt-daily-upgrade.timer apt-daily.service apt-daily-upgrade.service \
  unattended-upgrades.service || true
systemctl stop apt-daily.timer apt-daily-upgrade.timer unattended-upgrades.service 2>/dev/null || true

models=$(fast_disk)/models
mkdir -p "$models" "$state" "$root/var/log/synkti"

"$release/stacks/boot/install.sh" "$release"

# The plug-in is installed from this release's verified archive, since the engine's environment may be an older one of
# an image. It is built with that environment's packages; nothing is downloaded. The agent's self-test checks whether
# it works; without it the node still serves.
"$home/uv/bin/uv" pip install --quiet --no-cache --offline --no-deps --no-build-isolation --reinstall \
  --python "$home/engine/bin/python" "$release/node_agent/engine_plugin" ||
  log "the engine's plug-in cannot be installed; this node cannot continue other nodes' streams that need it"

# The agent's unit cannot gain privileges, so the GPU's device files are created here, one for each GPU. The first call
# loads the driver, whose /proc entries list the GPUs.
if command -v nvidia-modprobe >/dev/null; then
  nvidia-modprobe -c 0 -u
  for gpu in "$root"/proc/driver/nvidia/gpus/*/information; do
    minor=$(awk -F ':[[:space:]]*' '$1 == "Device Minor" { print $2 + 0 }' "$gpu" 2>/dev/null || true)
    if [ -n "$minor" ] && [ "$minor" != 0 ]; then nvidia-modprobe -c "$minor"; fi
  done
fi

log "model $SYNKTI_MODEL_NAME ($SYNKTI_MODEL_LOAD)"
folder=$home/baked-models/$SYNKTI_MODEL_NAME
[ -d "$folder" ] || folder=$models/$SYNKTI_MODEL_NAME
# It writes the model's location (on the disk or in S3) and the engine's arguments for it to model.env.
"$home/agent/bin/python" -m node_agent.fetch_model --to "$folder" --environ "$root/etc/synkti/model.env"

"$release/stacks/boot/caches.sh" fetch || log "compiled kernels cannot be fetched; the engine compiles them"

# VLLM_USE_FLASHINFER_SAMPLER: FlashInfer's sampler is compiled at the engine's start, for which the image needs nvcc:
# without it the engine ends (vLLM issue 49497), with it each start takes longer. vLLM's own sampler needs neither.
cat >"$root/etc/synkti/node.env.new" <<ENVIRONMENT
SYNKTI_CLUSTER=$SYNKTI_CLUSTER
SYNKTI_MODEL_NAME=$SYNKTI_MODEL_NAME
$(cat "$root/etc/synkti/model.env")
SYNKTI_STATE_DIR=/var/lib/synkti
SYNKTI_GROUP=$SYNKTI_GROUP
SYNKTI_LINGER_S=$SYNKTI_LINGER_S
SYNKTI_API_KEYS=$SYNKTI_API_KEYS
SYNKTI_AUDIT_LOG=$SYNKTI_AUDIT_LOG
SYNKTI_ALLOWED_ORIGINS=$SYNKTI_ALLOWED_ORIGINS
SYNKTI_CHECKPOINTS_BUCKET=$SYNKTI_CHECKPOINTS_BUCKET
SYNKTI_KV_MAX_BYTES=$SYNKTI_KV_MAX_BYTES
SYNKTI_VERSION=$SYNKTI_VERSION
PYTHONUNBUFFERED=1
AWS_REGION=$AWS_REGION
AWS_DEFAULT_REGION=$AWS_REGION
VLLM_NO_USAGE_STATS=1
DO_NOT_TRACK=1
VLLM_USE_FLASHINFER_SAMPLER=0
VLLM_CACHE_ROOT=/var/lib/synkti/compiled/vllm
TORCHINDUCTOR_CACHE_DIR=/var/lib/synkti/compiled/inductor
TRITON_CACHE_DIR=/var/lib/synkti/compiled/triton
FLASHINFER_WORKSPACE_BASE=/var/lib/synkti/compiled/flashinfer
HF_HUB_OFFLINE=1
TRANSFORMERS_OFFLINE=1
PATH=/opt/synkti/engine/bin:/usr/local/bin:/usr/bin:/bin
ENVIRONMENT
mv "$root/etc/synkti/node.env.new" "$root/etc/synkti/node.env"

install -m 0644 "$release/stacks/boot/logrotate.conf" "$root/etc/logrotate.d/synkti"
watcher=$root/opt/aws/amazon-cloudwatch-agent/bin/amazon-cloudwatch-agent-ctl
if [ -x "$watcher" ]; then
  sed "s|@LOG_GROUP@|$SYNKTI_LOG_GROUP|" "$release/stacks/boot/cloudwatch-agent.json" >"$root/etc/synkti/cloudwatch-agent.json"
  "$watcher" -a fetch-config -m ec2 -s -c "file:$root/etc/synkti/cloudwatch-agent.json" >/dev/null ||
    log "CloudWatch's agent does not start; logs are only in the journal and in S3"
else
  log "this image has no CloudWatch agent; logs are only in the journal and in S3"
fi

systemctl start --no-block synkti.service synkti-load.timer
log "the agent starts"
