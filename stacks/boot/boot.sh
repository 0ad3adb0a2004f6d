#!/bin/bash
# Makes a fresh GPU instance a node: the agent and vLLM in environments of their own, the model, the systemd unit.
# Idempotent: every step looks first whether it was done. Pinned: the agent's artifact names its version and carries
# its lock file; nothing here asks for "latest". Checked: whatever is downloaded has its SHA-256 compared.
# Not yet run on a real instance: it was read, linted and its parts were tried, no more.
set -euo pipefail

: "${SYNKTI_CLUSTER:?}" "${SYNKTI_MODEL_NAME:?}" "${SYNKTI_MODELS_BUCKET:?}" "${AWS_REGION:?}"
home=/opt/synkti
models=$home/models
mkdir -p "$home" "$models" /etc/synkti
id synkti >/dev/null 2>&1 || useradd --system --home-dir "$home" --shell /usr/sbin/nologin synkti

say() { echo "synkti boot: $*"; }

fetch() { # fetch KEY FILE: from the models bucket, checked against KEY.sha256
  local key=$1 file=$2
  aws s3 cp --only-show-errors "s3://$SYNKTI_MODELS_BUCKET/$key.sha256" "$file.sha256"
  if [ -f "$file" ] && echo "$(cat "$file.sha256")  $file" | sha256sum --check --status; then
    return
  fi
  aws s3 cp --only-show-errors "s3://$SYNKTI_MODELS_BUCKET/$key" "$file"
  echo "$(cat "$file.sha256")  $file" | sha256sum --check --status || { say "$key is damaged"; exit 1; }
}

say "agent"
fetch bin/agent.tar.gz "$home/agent.tar.gz"
mkdir -p "$home/agent"
tar --extract --gzip --file "$home/agent.tar.gz" --directory "$home/agent"
if ! cmp --silent "$home/agent/requirements/agent.txt" "$home/venv/installed.txt"; then
  python3 -m venv "$home/venv"
  "$home/venv/bin/pip" install --quiet --require-hashes --requirement "$home/agent/requirements/agent.txt"
  cp "$home/agent/requirements/agent.txt" "$home/venv/installed.txt"
fi
site=$("$home/venv/bin/python" -c 'import site; print(site.getsitepackages()[0])')
echo "$home/agent" >"$site/synkti.pth"

say "engine"
vllm=$(cat "$home/agent/requirements/engine.txt")
if [ ! -f "$home/engine/$vllm" ]; then
  python3 -m venv "$home/engine"
  "$home/engine/bin/pip" install --quiet "$vllm"
  touch "$home/engine/$vllm"
fi

say "model $SYNKTI_MODEL_NAME"
aws s3 cp --only-show-errors "s3://$SYNKTI_MODELS_BUCKET/models/$SYNKTI_MODEL_NAME/manifest.sha256" "$models/manifest.sha256"
aws s3 sync --only-show-errors "s3://$SYNKTI_MODELS_BUCKET/models/$SYNKTI_MODEL_NAME" "$models/$SYNKTI_MODEL_NAME"
(cd "$models/$SYNKTI_MODEL_NAME" && sha256sum --check --quiet "$models/manifest.sha256") ||
  { say "the model is missing or damaged: run 'synkti model push' again"; exit 1; }

cat >/etc/synkti/node.env <<ENVIRONMENT
SYNKTI_CLUSTER=$SYNKTI_CLUSTER
SYNKTI_MODEL_NAME=$SYNKTI_MODEL_NAME
SYNKTI_MODEL_DIR=$models/$SYNKTI_MODEL_NAME
SYNKTI_STATE_DIR=/var/lib/synkti
AWS_REGION=$AWS_REGION
AWS_DEFAULT_REGION=$AWS_REGION
PATH=$home/engine/bin:/usr/local/bin:/usr/bin:/bin
ENVIRONMENT

install -m 0644 "$home/agent/stacks/boot/synkti-node.service" /etc/systemd/system/synkti-node.service
systemctl daemon-reload
systemctl enable --now synkti-node.service
say "started"
