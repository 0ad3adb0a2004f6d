#!/bin/bash
# Publishes the requests in flight at this node's engine to CloudWatch, once a minute. Automatic scaling uses them.
set -euo pipefail
# shellcheck source=stacks/boot/instance.sh
. "$(dirname "$0")/instance.sh"

# An agent that starts, or is restarted, does not answer. That is no failure of this unit, which would make systemd call
# the instance degraded.
metrics=$(curl -sf --max-time 5 "${SYNKTI_ADMIN:-http://127.0.0.1:8003}/metrics") || {
  log "the agent does not answer; nothing is published this time"
  exit 0
}
in_flight=$(awk '$1 == "synkti_engine_requests" { print $2; found = 1 } END { exit !found }' <<<"$metrics")
aws cloudwatch put-metric-data --namespace "$SYNKTI_METRICS_NAMESPACE" --metric-name "$SYNKTI_IN_FLIGHT_METRIC" \
  --unit Count --value "$in_flight" --dimensions "AutoScalingGroupName=$SYNKTI_GROUP"
