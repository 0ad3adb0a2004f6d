#!/bin/bash
# end-of-life.sh WHY: the node's last log to S3, under end-of-life/<instance>/. Bounded in size and in time: EC2 does
# not wait. Never fails: whoever calls it has something more important to do afterwards.
set -uo pipefail
# shellcheck source=stacks/boot/instance.sh
. "$(dirname "$0")/instance.sh"

log=$(mktemp)
trap 'rm -f "$log"' EXIT
journalctl --boot --no-pager --output short-iso-precise --unit 'synkti*' | tail --bytes 4194304 >"$log"
name=end-of-life/$(instance_id || echo unknown)/$(date --utc +%Y-%m-%dT%H-%M-%SZ)-${1:-ended}.log
if timeout 20 aws s3 cp --only-show-errors "$log" "s3://$SYNKTI_CHECKPOINTS_BUCKET/$name"; then
  say "the last log is in s3://$SYNKTI_CHECKPOINTS_BUCKET/$name"
else
  say "the last log could not be written to S3"
fi
exit 0
