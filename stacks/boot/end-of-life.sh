#!/bin/bash
# end-of-life.sh REASON: uploads the node's last log to S3, under end-of-life/<instance>/. Bounded in size and time,
# because EC2 does not wait. Always exits with 0, because its callers have more important steps to do afterwards.
set -uo pipefail
# shellcheck source=stacks/boot/instance.sh
. "$(dirname "$0")/instance.sh"

last_log=$(mktemp)
trap 'rm -f "$last_log"' EXIT
journalctl --boot --no-pager --output short-iso-precise --unit 'synkti*' | tail --bytes 4194304 >"$last_log"
name=end-of-life/$(instance_id || echo unknown)/$(date --utc +%Y-%m-%dT%H-%M-%SZ)-${1:-ended}.log
if timeout 20 aws s3 cp --only-show-errors "$last_log" "s3://$SYNKTI_CHECKPOINTS_BUCKET/$name"; then
  log "the last log is in s3://$SYNKTI_CHECKPOINTS_BUCKET/$name"
else
  log "the last log could not be written to S3"
fi
exit 0
