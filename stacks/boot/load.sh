#!/bin/bash
# Publishes the requests in flight at this node's engine to CloudWatch, once a minute. Automatic scaling uses them.
set -euo pipefail
# shellcheck source=stacks/boot/instance.sh
. "$(dirname "$0")/instance.sh"

# /load needs no key of a client, as the node's health.
in_flight=$(curl -sf --max-time 5 "${SYNKTI_FRONT:-http://127.0.0.1:8000}/load" |
  sed -n 's/^{"server_load":\([0-9][0-9]*\)}$/\1/p' | grep .)
aws cloudwatch put-metric-data --namespace "$SYNKTI_METRICS_NAMESPACE" --metric-name "$SYNKTI_IN_FLIGHT_METRIC" \
  --unit Count --value "$in_flight" --dimensions "AutoScalingGroupName=$SYNKTI_GROUP"
