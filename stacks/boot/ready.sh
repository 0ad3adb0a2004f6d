#!/bin/bash
# Watches whether this node serves. When it serves for the first time, it is reported to the group as in service, with
# retries until the hook's timeout, because an unavailable API is not the node's fault. If the node does not serve
# within SYNKTI_READY_WITHIN_S, or not again within that time, this unit fails, and synkti-give-up@.service terminates
# the instance.
set -uo pipefail
# shellcheck source=stacks/boot/instance.sh
. "$(dirname "$0")/instance.sh"

readonly MAX_WAIT_S=30
began=$(uptime_s)
reported=no
wait=1
last=$began # when it served last

report_ready() {
  if complete_launch CONTINUE; then
    reported=yes
  elif [ $(($(uptime_s) - began)) -gt $((SYNKTI_READY_WITHIN_S + 600)) ]; then
    log "the group's hook has timed out; no more reports are sent"
    reported=yes
  else
    log "the node serves; the report to the group is retried in $wait s"
    sleep "$wait"
    wait=$((wait * 2 < MAX_WAIT_S ? wait * 2 : MAX_WAIT_S))
  fi
}

while true; do
  if agent_serves; then
    [ "$reported" = yes ] || {
      log "ready"
      report_ready
      [ "$reported" = no ] || systemctl start --no-block synkti-caches.service
    }
    last=$(uptime_s)
  elif [ $(($(uptime_s) - last)) -ge "$SYNKTI_READY_WITHIN_S" ]; then
    break
  fi
  if [ "$reported" = yes ]; then sleep 5; else sleep 1; fi
done
log "not ready for $SYNKTI_READY_WITHIN_S s"
exit 1
