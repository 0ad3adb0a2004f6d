# shellcheck shell=bash
# What the boot scripts have in common. Sourced, never run. SYNKTI_ROOT is the tests': a folder in the place of /.
root=${SYNKTI_ROOT:-}
# shellcheck disable=SC2034 # by those who source this
home=$root/opt/synkti
: "${SYNKTI_IMDS:=http://169.254.169.254}"

say() { # Seconds since the kernel started stand in front: what a replacement's time goes into.
  echo "[$(cut -d. -f1 /proc/uptime) s] synkti: $*"
}

uptime_s() { # Whole seconds by a clock that no step of the time of day moves, unlike bash's own SECONDS.
  local up
  read -r up _ </proc/uptime
  echo "${up%%.*}"
}

agent_serves() { # Whether the agent serves: by its door, or where that is full or slow, by its own word to systemd.
  curl -sf --max-time 2 --output /dev/null "${SYNKTI_FRONT:-http://127.0.0.1:8000}/readyz" && return 0
  local shown
  shown=$(systemctl show --property ActiveState,StatusText synkti.service) || return 1
  [[ $shown == *ActiveState=active* && $shown == *StatusText=serving* ]]
}

again() { # again TRIES COMMAND...: with longer and longer waits between them
  local tries=$1 wait=1
  shift
  until "$@"; do
    tries=$((tries - 1))
    [ "$tries" -gt 0 ] || return 1
    sleep "$wait"
    wait=$((wait * 2))
  done
}

metadata() { # metadata PATH: one line of IMDSv2
  local token
  token=$(curl -sf --max-time 2 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' "$SYNKTI_IMDS/latest/api/token")
  curl -sf --max-time 2 -H "X-aws-ec2-metadata-token: $token" "$SYNKTI_IMDS/latest/meta-data/$1"
}

instance_id() { # From IMDS, or where that is away, from what cloud-init noted at the launch
  metadata instance-id || cat "$root/var/lib/cloud/data/instance-id"
}

complete_launch() { # complete_launch CONTINUE|ABANDON: done as well where the group waits no more
  local said
  if said=$(timeout 60 aws autoscaling complete-lifecycle-action --lifecycle-hook-name "$SYNKTI_READY_HOOK" \
    --auto-scaling-group-name "$SYNKTI_GROUP" --lifecycle-action-result "$1" \
    --instance-id "$(instance_id)" 2>&1); then
    say "told the group: $1"
  elif [[ $said == *"No active Lifecycle Action found"* ]]; then
    say "the group does not wait for this instance"
  else
    say "the group could not be told $1: $said"
    return 1
  fi
}
