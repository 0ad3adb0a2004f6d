#!/bin/bash
# Sets up an instance as a node: dependencies, model, the agent's settings, the agent. synkti-boot.service runs it at
# every start of the instance. Every step is skipped where it is already done. All versions are pinned, and the SHA-256
# of packages and weights is verified.
set -euo pipefail
# shellcheck source=stacks/boot/instance.sh
. "$(dirname "$0")/instance.sh"
release=$home/current
state=$root/var/lib/synkti
for user in synkti synkti-engine; do # the agent's, and vLLM's
  id "$user" >/dev/null 2>&1 ||
    useradd --system --user-group --home-dir "$root/var/lib/$user" --shell /usr/sbin/nologin "$user"
done

# A package upgrade may replace the driver's libraries under a loaded driver, after which no engine starts; needrestart
# may restart the agent. Nodes live for days and get new packages with a new image. Stopped first: a timer that is masked
# while it waits fails, and systemd then calls the whole instance degraded.
systemctl stop apt-daily.timer apt-daily-upgrade.timer unattended-upgrades.service 2>/dev/null || true
systemctl mask --quiet apt-daily.timer apt-daily-upgrade.timer apt-daily.service apt-daily-upgrade.service \
  unattended-upgrades.service || true

models=$(fast_disk)/models
mkdir -p "$models" "$state" "$root/var/log/synkti"

"$release/stacks/boot/install.sh" "$release"

# The plug-in is installed from this release's verified archive, since the engine's environment may be an older one of
# an image. It is built with that environment's packages; nothing is downloaded. The agent's self-test checks whether
# it works; without it the node still serves.
"$home/uv/bin/uv" pip install --quiet --no-cache --offline --no-deps --no-build-isolation --reinstall \
  --python "$home/engine/bin/python" "$release/node_agent/engine_plugin" ||
  log "the engine's plug-in cannot be installed; this node cannot continue other nodes' streams that need it"

# The engine's unit cannot gain privileges, so the GPU's device files are created here, one for each GPU. The first call
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

cat >"$root/etc/synkti/node.env.new" <<ENVIRONMENT
SYNKTI_CLUSTER=$SYNKTI_CLUSTER
SYNKTI_MODEL_NAME=$SYNKTI_MODEL_NAME
$(cat "$root/etc/synkti/model.env")
SYNKTI_STATE_DIR=/var/lib/synkti
SYNKTI_GROUP=$SYNKTI_GROUP
SYNKTI_LINGER_S=$SYNKTI_LINGER_S
SYNKTI_ADMIN_HOST=$SYNKTI_ADMIN_HOST
SYNKTI_PEER_TLS=$SYNKTI_PEER_TLS
SYNKTI_API_KEYS=$SYNKTI_API_KEYS
SYNKTI_AUDIT_LOG=$SYNKTI_AUDIT_LOG
SYNKTI_UI=$SYNKTI_UI
SYNKTI_ALLOWED_ORIGINS=$SYNKTI_ALLOWED_ORIGINS
SYNKTI_ALLOWED_ROUTES=$SYNKTI_ALLOWED_ROUTES
SYNKTI_ALLOWED_FIELDS=$SYNKTI_ALLOWED_FIELDS
SYNKTI_ALLOWED_MEDIA_DOMAINS=$SYNKTI_ALLOWED_MEDIA_DOMAINS
SYNKTI_MAX_DATA_URL_BYTES=$SYNKTI_MAX_DATA_URL_BYTES
SYNKTI_CACHE_SALT=$SYNKTI_CACHE_SALT
SYNKTI_CHECKPOINTS_BUCKET=$SYNKTI_CHECKPOINTS_BUCKET
SYNKTI_KV_MAX_BYTES=$SYNKTI_KV_MAX_BYTES
SYNKTI_VERSION=$SYNKTI_VERSION
PYTHONUNBUFFERED=1
AWS_REGION=$AWS_REGION
AWS_DEFAULT_REGION=$AWS_REGION
ENVIRONMENT
mv "$root/etc/synkti/node.env.new" "$root/etc/synkti/node.env"

# VLLM_USE_FLASHINFER_SAMPLER: FlashInfer's sampler is compiled at the engine's start, for which the image needs nvcc:
# without it the engine ends (vLLM issue 49497), with it each start takes longer. vLLM's own sampler needs neither.
compiled=/var/lib/synkti-engine/compiled
cat >"$root/etc/synkti/engine.env.new" <<ENVIRONMENT
PYTHONUNBUFFERED=1
VLLM_NO_USAGE_STATS=1
DO_NOT_TRACK=1
VLLM_USE_FLASHINFER_SAMPLER=0
VLLM_CACHE_ROOT=$compiled/vllm
TORCHINDUCTOR_CACHE_DIR=$compiled/inductor
TRITON_CACHE_DIR=$compiled/triton
FLASHINFER_WORKSPACE_BASE=$compiled/flashinfer
HF_HUB_OFFLINE=1
TRANSFORMERS_OFFLINE=1
PATH=/opt/synkti/engine/bin:/usr/local/bin:/usr/bin:/bin
ENVIRONMENT
overrides=$root/run/systemd/system # they end with this boot of the instance
mkdir -p "$overrides/synkti.service.d" "$overrides/synkti-engine.service.d"
rm -f "$overrides/synkti-engine.service.d/metadata.conf"
if grep --quiet '^SYNKTI_MODEL_DIR=.\?s3://' "$root/etc/synkti/model.env"; then
  log "the engine reads its weights from S3, so its unit may use the instance's metadata, and with it the node's role"
  printf 'SYNKTI_ENGINE_METADATA=needed\nAWS_REGION=%s\nAWS_DEFAULT_REGION=%s\n' "$AWS_REGION" "$AWS_REGION" \
    >>"$root/etc/synkti/engine.env.new"
  printf '[Service]\nIPAddressDeny=\n' >"$overrides/synkti-engine.service.d/metadata.conf"
fi
mv "$root/etc/synkti/engine.env.new" "$root/etc/synkti/engine.env"

# The agent's bound is a sixteenth of the memory, and 1,536 MiB at least: three times its clients' bodies (256 MiB), its
# replicas (256 MiB), and twice its own 120 MiB. The engine has the rest except 1 GiB for the system, and half at least.
total_mib=$(($(awk '$1 == "MemTotal:" { print $2 }' "$root/proc/meminfo") / 1024))
agent_mib=$((total_mib / 16 > 1536 ? total_mib / 16 : 1536))
engine_mib=$((total_mib - agent_mib - 1024 > total_mib / 2 ? total_mib - agent_mib - 1024 : total_mib / 2))
printf '[Service]\nMemoryMax=%sM\n' "$agent_mib" >"$overrides/synkti.service.d/memory.conf"
printf '[Service]\nMemoryMax=%sM\n' "$engine_mib" >"$overrides/synkti-engine.service.d/memory.conf"
log "of $total_mib MiB of memory the agent may use $agent_mib, the engine $engine_mib"
systemctl daemon-reload

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
