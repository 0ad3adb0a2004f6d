#!/bin/bash
# Watches whether this node serves. When it does for the first time, the group is told that the instance is in service,
# again and again until the group has it, or its hook's time is up: an API that is away is no fault of the node.
# A node that does not serve within its time, or not again within that time, fails this unit, and
# synkti-give-up.service ends the instance: it was borrowed.
set -uo pipefail
# shellcheck source=stacks/boot/instance.sh
. "$(dirname "$0")/instance.sh"

readonly LONGEST_WAIT_S=30
began=$(uptime_s)
told=no
wait=1
last=$began # when it served last

tell_the_group() {
  if complete_launch CONTINUE; then
    told=yes
  elif [ $(($(uptime_s) - began)) -gt $((SYNKTI_READY_WITHIN_S + 600)) ]; then
    say "the group's hook has run out meanwhile; it is not told any more"
    told=yes
  else
    say "the node serves all the same; the group is told again in $wait s"
    sleep "$wait"
    wait=$((wait * 2 < LONGEST_WAIT_S ? wait * 2 : LONGEST_WAIT_S))
  fi
}

while true; do
  if agent_serves; then
    [ "$told" = yes ] || { say "ready"; tell_the_group; }
    last=$(uptime_s)
  elif [ $(($(uptime_s) - last)) -ge "$SYNKTI_READY_WITHIN_S" ]; then
    break
  fi
  if [ "$told" = yes ]; then sleep 5; else sleep 1; fi
done
say "not ready for $SYNKTI_READY_WITHIN_S s"
exit 1
