#!/bin/bash
# diff.sh BASE CHANGE: what the second cloud assembly changes in the first, stack by stack, as Markdown. No account is
# asked. Cut to what a comment at GitHub may hold.
set -euo pipefail
base=$1 change=$2
cdk=$(dirname "$0")/../node_modules/.bin/cdk
limit=60000
empty=$(mktemp)
trap 'rm -f "$empty"' EXIT
echo '{"Resources": {}}' >"$empty"

stacks() { find "$1" -maxdepth 1 -name '*.template.json' -printf '%f\n' | sed 's/\.template\.json$//'; }

said=$(
  for stack in $(stacks "$change" | sort); do
    before=$base/$stack.template.json
    [ -f "$before" ] || before=$empty
    echo "Stack $stack"
    "$cdk" diff "$stack" --app "$change" --exclusively --template "$before" 2>&1 |
      grep -v -e '^Stack ' -e '^!!' -e 'feature flags are not configured' -e '^$' || true
  done
  for stack in $(comm -23 <(stacks "$base" | sort) <(stacks "$change" | sort)); do
    echo "Stack $stack is gone from the app; it stays deployed until it is destroyed"
  done
)
echo "### What this would change"
echo '```'
echo "${said:0:$limit}"
[ "${#said}" -le "$limit" ] || echo "... and $((${#said} - limit)) characters more"
echo '```'
