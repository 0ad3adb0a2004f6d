#!/bin/bash
# Watches whether this node serves. When it does for the first time, the group is told that the instance is in service.
# A node that does not serve within its time, or not again within that time, fails this unit, and
# synkti-give-up.service ends the instance: it was borrowed.
set -euo pipefail
# shellcheck source=stacks/boot/instance.sh
. "$(dirname "$0")/instance.sh"

serves() { curl -sf --max-time 2 --output /dev/null "${SYNKTI_FRONT:-http://127.0.0.1:8000}/readyz"; }

told=no
last=0 # when it served last, in seconds of this script
while [ $((SECONDS - last)) -lt "$SYNKTI_READY_WITHIN_S" ]; do
  if serves; then
    last=$SECONDS
    if [ "$told" = no ]; then
      say "ready"
      again 6 complete_launch CONTINUE
      told=yes
    fi
  fi
  if [ "$told" = yes ]; then sleep 5; else sleep 1; fi
done
say "not ready for $SYNKTI_READY_WITHIN_S s"
exit 1
