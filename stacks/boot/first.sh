# shellcheck shell=bash
# The end of an instance's user data, after `#!/bin/bash` and the lines that write boot.env. It downloads and verifies
# the agent's archive, and starts the units in it. cloud-init runs it once in an instance's life, as root.
set -euo pipefail
root=${SYNKTI_ROOT:-}
set -a
# shellcheck source=/dev/null
. "$root/etc/synkti/boot.env"
set +a

failed() { # give-up.sh is not installed yet
  trap - ERR
  echo "synkti: the agent could not be fetched; line $1 failed"
  aws s3 cp --only-show-errors "$root/var/log/cloud-init-output.log" \
    "s3://$SYNKTI_CHECKPOINTS_BUCKET/end-of-life/$(cat "$root/var/lib/cloud/data/instance-id")/first-boot.log" || true
  [ "$SYNKTI_KEEP_FAILED_NODES" = true ] || systemctl poweroff
  exit 1
}
trap 'failed $LINENO' ERR

release=$root/opt/synkti/releases/$SYNKTI_AGENT_SHA256
archive=$release.tar
mkdir -p "$root/opt/synkti/releases"
if [ ! -d "$release" ]; then
  for wait in 2 10 60 240 0; do # S3 may be unavailable for minutes, and a new instance would not help
    aws s3 cp --only-show-errors "$SYNKTI_AGENT_URL" "$archive" && break
    [ "$wait" -gt 0 ] && sleep "$wait"
  done
  echo "$SYNKTI_AGENT_SHA256  $archive" | sha256sum --check --quiet
  rm -rf "$release.new"
  mkdir "$release.new"
  tar --extract --file "$archive" --directory "$release.new" --no-same-owner
  mv "$release.new" "$release"
  rm "$archive"
fi
ln -sfn "$release" "$root/opt/synkti/current"
mkdir -p "$root/var/log/synkti" # synkti-logs opens its file before systemd would create the folder
install -m 0644 "$release"/stacks/boot/*.service "$release"/stacks/boot/*.socket "$release"/stacks/boot/*.timer \
  "$root/etc/systemd/system/"
systemctl daemon-reload
systemctl enable synkti-logs.service synkti-ready.service synkti.service
systemctl start --no-block synkti-logs.service synkti-boot.service synkti-ready.service
