#!/bin/bash
# Terminates an instance whose node cannot serve: uploads its log, abandons its launch, powers off. With this launch
# template an instance that powers itself off terminates, and the group replaces it. An instance whose agent serves, or
# is about to be restarted, is never terminated.
set -uo pipefail
# shellcheck source=stacks/boot/instance.sh
. "$(dirname "$0")/instance.sh"

for unit in synkti synkti-boot synkti-ready; do
  if [ "$(systemctl show --property SubState --value "$unit.service")" = auto-restart ]; then
    log "$unit is being restarted; nothing is given up yet"
    exit 0
  fi
done
if agent_serves; then
  log "the agent serves; nothing is given up, and the watch continues"
  systemctl start --no-block synkti-ready.service
  exit 0
fi
log "giving up: this node cannot serve"
"$(dirname "$0")/end-of-life.sh" gave-up
if [ "$SYNKTI_KEEP_FAILED_NODES" = true ]; then
  log "keep_failed_nodes is on: the instance stays, and costs money, until it is terminated by hand"
  exit 0
fi
retry 3 complete_launch ABANDON || true
systemctl poweroff
