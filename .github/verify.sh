#!/bin/bash
# verify.sh OUTPUTS: waits until every node of the fleet is ready on the version that was deployed, and says so in
# Markdown. OUTPUTS: what `cdk deploy --outputs-file` wrote.
set -euo pipefail
python=$(dirname "$0")/../.venv/bin/python
output() { "$python" -c '
import json, sys
found = [each[sys.argv[2]] for each in json.load(open(sys.argv[1])).values() if sys.argv[2] in each]
print(found[0] if found else "")' "$1" "$2"; }

version=$(output "$1" FleetVersion)
endpoint=$(output "$1" Endpoint)
[ -n "$version" ] || {
  echo "no stack says which version was deployed" >&2
  exit 1
}
nodes=$("$python" -m cli nodes --wait --version "$version" --json)
if [ "$("$python" -c 'import json, sys; print(json.load(sys.stdin).get("desired"))' <<<"$nodes")" = 0 ]; then
  echo "::warning::the fleet is stopped, so no node was verified; synkti bootstrap or synkti scale starts it" >&2
  echo "### Deployed, and stopped"
  echo
  echo "The fleet keeps no nodes, so none was verified. \`synkti bootstrap\` or \`synkti scale N\` starts it."
  exit 0
fi
echo "### Deployed"
echo
echo "Every node is ready on version \`$version\`.${endpoint:+ The fleet answers at $endpoint.}"
echo
echo '```json'
echo "$nodes"
echo '```'
