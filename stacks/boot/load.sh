#!/bin/bash
# Publishes the requests in flight at this node's engine to CloudWatch, once a minute. Automatic scaling uses them.
set -euo pipefail
# shellcheck source=stacks/boot/instance.sh
. "$(dirname "$0")/instance.sh"

in_flight=$(curl -sf --max-time 5 "${SYNKTI_ADMIN:-http://127.0.0.1:8003}/metrics" |
  awk '$1 == "synkti_engine_requests" { print $2; found = 1 } END { exit !found }')
aws cloudwatch put-metric-data --namespace "$SYNKTI_METRICS_NAMESPACE" --metric-name "$SYNKTI_IN_FLIGHT_METRIC" \
  --unit Count --value "$in_flight" --dimensions "AutoScalingGroupName=$SYNKTI_GROUP"
