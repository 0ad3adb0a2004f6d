#!/bin/bash
# caches.sh fetch|store: shares what vLLM compiles at its start (torch.compile, Triton, FlashInfer) through the models
# bucket, if the setting compile_caches is on. The first node that is ready stores it; later ones fetch it. An object is
# never overwritten, and is for one instance type (so for one GPU and CPU), driver, lock file, model and arguments. It
# contains code that the engine runs, so it is unpacked as the engine's user. Without it the engine compiles.
set -euo pipefail
# shellcheck source=stacks/boot/instance.sh
. "$(dirname "$0")/instance.sh"
[ "$SYNKTI_COMPILE_CACHES" = true ] || exit 0
readonly MAX_MIB=2048

compiled=$root/var/lib/synkti-engine/compiled
made_for=$(
  cat "$home/current/requirements/python.txt" "$home/current/requirements/engine.txt" "$root/etc/synkti/model.env"
  cat "$root/proc/driver/nvidia/version" 2>/dev/null || true
  echo "$SYNKTI_MODEL_NAME $SYNKTI_MODEL_SHA256"
)
key=bin/caches/$(metadata instance-type)-$(sha256sum <<<"$made_for" | cut -c1-16).tar
archive=$(mktemp)
trap 'rm -f "$archive"' EXIT

case $1 in
  fetch)
    if [ -d "$compiled" ]; then exit 0; fi # a restart: this node has its own
    if ! timeout 120 aws s3 cp --only-show-errors "s3://$SYNKTI_MODELS_BUCKET/$key" "$archive"; then
      log "the bucket has no compiled kernels for this node; its engine compiles them"
      exit 0
    fi
    install -d -o synkti-engine -g synkti-engine -m 0700 "$compiled"
    runuser -u synkti-engine -- tar --extract --directory "$compiled" <"$archive" || rm -rf "$compiled"
    log "compiled kernels: $key"
    ;;
  store)
    size=$(du -sm "$compiled" | cut -f1)
    if aws s3api head-object --bucket "$SYNKTI_MODELS_BUCKET" --key "$key" >/dev/null 2>&1; then exit 0; fi
    if [ "$size" -gt "$MAX_MIB" ]; then
      log "compiled kernels are not shared: $size MiB, more than $MAX_MIB"
      exit 0
    fi
    tar --create --file "$archive" --directory "$compiled" . || [ $? -eq 1 ] # 1: a file changed meanwhile
    timeout 300 aws s3api put-object --bucket "$SYNKTI_MODELS_BUCKET" --key "$key" --body "$archive" \
      --if-none-match '*' >/dev/null
    log "compiled kernels stored: $key, $size MiB"
    ;;
esac
