# One streamed chat with curl: BASE_URL MODEL PROMPT TOKENS. It fails where the connection broke or no [DONE] came.
set -euo pipefail
body=$(printf '{"model":"%s","messages":[{"role":"user","content":"%s"}],"temperature":0,"max_tokens":%s,"stream":true,"ignore_eos":true}' "$2" "$3" "$4")
curl -sSN --fail "$1/chat/completions" -H 'content-type: application/json' -d "$body" | python3 -c '
import json, sys
events = [line[6:] for line in sys.stdin.read().splitlines() if line.startswith("data: ")]
if events[-1:] != ["[DONE]"]:
    sys.exit("no [DONE]")
choices = [json.loads(event)["choices"][0] for event in events[:-1]]
text = "".join(choice["delta"].get("content") or "" for choice in choices)
print(json.dumps({"text": text, "reason": choices[-1]["finish_reason"]}))
'
