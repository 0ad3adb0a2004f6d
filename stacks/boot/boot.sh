#!/bin/bash
# Makes an instance a node: dependencies, the model, the agent's settings, the agent. Run by synkti-boot.service, at
# every start of the instance. Idempotent: every step looks first whether it was done. Pinned: nothing here asks for a
# newest version. Checked: packages and weights have their SHA-256 compared.
set -euo pipefail
# shellcheck source=stacks/boot/instance.sh
. "$(dirname "$0")/instance.sh"
release=$home/current
state=$root/var/lib/synkti
id synkti >/dev/null 2>&1 || useradd --system --home-dir "$state" --shell /usr/sbin/nologin synkti

# The root volume, or the instance's own disk, which is faster and costs nothing. AWS's GPU image mounts it there.
models=$home/models
if mountpoint --quiet "$root/opt/dlami/nvme"; then
  models=$root/opt/dlami/nvme/synkti-models
fi
mkdir -p "$models" "$state" "$root/var/log/synkti"

"$release/stacks/boot/install.sh" "$release"

# The plug-in is this release's; the engine's environment may be older, and in an image. It is built from the archive,
# whose hash was compared, with what that environment has: nothing is downloaded. The agent's self-test says whether it
# works, and without it the node serves all the same.
"$home/uv/bin/uv" pip install --quiet --no-cache --offline --no-deps --no-build-isolation --reinstall \
  --python "$home/engine/bin/python" "$release/node_agent/engine_plugin" ||
  say "the engine's plug-in cannot be installed; this node will not go on with answers of other nodes that need it"

# The agent's unit may gain no privileges, so what makes the GPU's device files has to run before it.
# One file for each GPU: the first call loads the driver, which then says how many there are.
if command -v nvidia-modprobe >/dev/null; then
  nvidia-modprobe -c 0 -u
  for gpu in "$root"/proc/driver/nvidia/gpus/*/information; do
    minor=$(awk -F ':[[:space:]]*' '$1 == "Device Minor" { print $2 + 0 }' "$gpu" 2>/dev/null || true)
    if [ -n "$minor" ] && [ "$minor" != 0 ]; then nvidia-modprobe -c "$minor"; fi
  done
fi

say "model $SYNKTI_MODEL_NAME ($SYNKTI_MODEL_LOAD)"
folder=$home/baked-models/$SYNKTI_MODEL_NAME
[ -d "$folder" ] || folder=$models/$SYNKTI_MODEL_NAME
# It says where the engine finds the model, and with which arguments: from the disk, or straight from S3.
"$home/agent/bin/python" -m node_agent.fetch_model --to "$folder" --environ "$root/etc/synkti/model.env"

cat >"$root/etc/synkti/node.env.new" <<ENVIRONMENT
SYNKTI_CLUSTER=$SYNKTI_CLUSTER
SYNKTI_MODEL_NAME=$SYNKTI_MODEL_NAME
$(cat "$root/etc/synkti/model.env")
SYNKTI_STATE_DIR=/var/lib/synkti
SYNKTI_GROUP=$SYNKTI_GROUP
SYNKTI_LINGER_S=$SYNKTI_LINGER_S
SYNKTI_ALLOWED_ORIGINS=$SYNKTI_ALLOWED_ORIGINS
SYNKTI_CHECKPOINTS_BUCKET=$SYNKTI_CHECKPOINTS_BUCKET
SYNKTI_KV_MAX_BYTES=$SYNKTI_KV_MAX_BYTES
SYNKTI_VERSION=$SYNKTI_VERSION
PYTHONUNBUFFERED=1
AWS_REGION=$AWS_REGION
AWS_DEFAULT_REGION=$AWS_REGION
VLLM_NO_USAGE_STATS=1
DO_NOT_TRACK=1
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
    say "CloudWatch's agent does not start; the journal and the log in S3 are all there is"
else
  say "this image has no CloudWatch agent; the journal and the log in S3 are all there is"
fi

systemctl start --no-block synkti.service synkti-load.timer
say "the agent starts"
