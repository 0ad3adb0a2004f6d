#!/bin/bash
# Ends an instance whose node cannot serve: its log to S3, the launch abandoned, the power off. The launch template
# makes an instance that powers off itself terminate, and the group replaces it. Whatever failed, an instance whose
# agent serves, or is about to be started again, is never ended.
set -uo pipefail
# shellcheck source=stacks/boot/instance.sh
. "$(dirname "$0")/instance.sh"

for unit in synkti synkti-boot synkti-ready; do
  if [ "$(systemctl show --property SubState --value "$unit.service")" = auto-restart ]; then
    say "$unit is started again; nothing is given up yet"
    exit 0
  fi
done
if agent_serves; then
  say "the agent serves; nothing is given up, and the watch goes on"
  systemctl start --no-block synkti-ready.service
  exit 0
fi
say "giving up: this node cannot serve"
"$(dirname "$0")/end-of-life.sh" gave-up
if [ "$SYNKTI_KEEP_FAILED_NODES" = true ]; then
  say "keep_failed_nodes is on: the instance stays, and is paid for, until somebody ends it"
  exit 0
fi
again 3 complete_launch ABANDON || true
systemctl poweroff
