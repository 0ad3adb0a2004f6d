# shellcheck shell=bash
# Functions of the boot scripts. Sourced, never run. SYNKTI_ROOT is a folder that replaces / in tests.
root=${SYNKTI_ROOT:-}
# shellcheck disable=SC2034 # by those who source this
home=$root/opt/synkti
: "${SYNKTI_IMDS:=http://169.254.169.254}"

log() { # Logs a line, with the seconds since the kernel started: they show how long each step of a boot takes.
  echo "[$(cut -d. -f1 /proc/uptime) s] synkti: $*"
}

uptime_s() { # Prints whole seconds of a monotonic clock; bash's own SECONDS follows changes of the wall clock.
  local up
  read -r up _ </proc/uptime
  echo "${up%%.*}"
}

fast_disk() { # Prints the folder for large files: the instance's own disk where AWS's GPU image mounts it, else $home.
  if mountpoint --quiet "$root/opt/dlami/nvme"; then echo "$root/opt/dlami/nvme/synkti"; else echo "$home"; fi
}

agent_serves() { # Succeeds where the agent serves: by its admin listener, which is in plain HTTP on the loopback, and not
  # full of clients; or if that is slow, by its systemd status.
  curl -sf --max-time 2 --output /dev/null "${SYNKTI_ADMIN:-http://127.0.0.1:8003}/readyz" && return 0
  local shown
  shown=$(systemctl show --property ActiveState,StatusText synkti.service) || return 1
  [[ $shown == *ActiveState=active* && $shown == *StatusText=serving* ]]
}

retry() { # retry ATTEMPTS COMMAND...: with doubling waits
  local attempts=$1 wait=1
  shift
  until "$@"; do
    attempts=$((attempts - 1))
    [ "$attempts" -gt 0 ] || return 1
    sleep "$wait"
    wait=$((wait * 2))
  done
}

metadata() { # metadata PATH: prints an entry of IMDSv2
  local token
  token=$(curl -sf --max-time 2 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' "$SYNKTI_IMDS/latest/api/token")
  curl -sf --max-time 2 -H "X-aws-ec2-metadata-token: $token" "$SYNKTI_IMDS/latest/meta-data/$1"
}

instance_id() { # Prints the id from IMDS, or where that is unavailable, from cloud-init's file of the launch
  metadata instance-id || cat "$root/var/lib/cloud/data/instance-id"
}

report_give_up() { # report_give_up REASON: puts an event, by which the group stops to launch nodes that cannot serve
  local reason entries
  # To fit into JSON as it is: only printable ASCII, without double quotes (042) and backslashes (134).
  reason=$(printf '%s' "$1" | LC_ALL=C tr -c ' -~' ' ' | tr '\042\134' '  ' | head --bytes 400)
  # The detail is a text that contains JSON.
  entries=$(sed "s|@GROUP@|$SYNKTI_GROUP|; s|@INSTANCE@|$(instance_id)|" "$(dirname "${BASH_SOURCE[0]}")/gave-up.json")
  entries=${entries//@REASON@/"$reason"}
  timeout 20 aws events put-events --entries "$entries" >/dev/null ||
    log "the end of this node could not be reported; the group reports it when it abandons the launch"
}

complete_launch() { # complete_launch CONTINUE|ABANDON: succeeds also where the group no longer waits
  local output
  if output=$(timeout 60 aws autoscaling complete-lifecycle-action --lifecycle-hook-name "$SYNKTI_READY_HOOK" \
    --auto-scaling-group-name "$SYNKTI_GROUP" --lifecycle-action-result "$1" \
    --instance-id "$(instance_id)" 2>&1); then
    log "reported to the group: $1"
  elif [[ $output == *"No active Lifecycle Action found"* ]]; then
    log "the group does not wait for this instance"
  else
    log "$1 could not be reported to the group: $output"
    return 1
  fi
}
