#!/bin/bash
# give-up.sh UNIT: terminates an instance whose node cannot serve, because UNIT failed: uploads its log, abandons its
# launch, powers off. With this launch template an instance that powers itself off terminates, and the group replaces
# it. An instance whose agent serves is never terminated. Neither is one whose UNIT is about to be restarted: it runs
# this again when it fails for good. Other units do not count. If synkti-ready has failed, the node's time is up, and
# nothing would watch an agent that restarts for ever.
set -uo pipefail
unit=$1
# shellcheck source=stacks/boot/instance.sh
. "$(dirname "$0")/instance.sh"

if [ "$(systemctl show --property SubState --value "$unit.service")" = auto-restart ]; then
  log "$unit is being restarted; nothing is given up yet"
  exit 0
fi
if agent_serves; then
  log "the agent serves; nothing is given up, and the watch continues"
  systemctl start --no-block synkti-ready.service
  exit 0
fi

why() { # Prints why UNIT failed: the agent's last status, which has the engine's last words, or the unit's last line.
  local status
  status=$(systemctl show --property StatusText --value synkti.service)
  case $status in
    "failed: "*) echo "${status#failed: }" ;;
    # Of the unit's own processes: --unit also has what systemd says about it, which comes last.
    *) journalctl --boot --lines 1 --output cat "_SYSTEMD_UNIT=$unit.service" ;;
  esac
}

reason="$unit: $(why)"
log "giving up: this node does not serve; $reason"
report_give_up "$reason"
"$(dirname "$0")/end-of-life.sh" gave-up
if [ "$SYNKTI_KEEP_FAILED_NODES" = true ]; then
  log "keep_failed_nodes is on: the instance stays, and costs money, until it is terminated by hand"
  exit 0
fi
retry 3 complete_launch ABANDON || true
systemctl poweroff
