# One streamed chat with curl: BASE_URL MODEL PROMPT TOKENS. It fails where the connection broke or no [DONE] came.
set -euo pipefail
body=$(printf '{"model":"%s","messages":[{"role":"user","content":"%s"}],"temperature":0,"max_tokens":%s,"stream":true,"ignore_eos":true}' "$2" "$3" "$4")
curl -sSN --fail "$1/chat/completions" -H 'content-type: application/json' -d "$body" | python3 "$(dirname "$0")/events_to_json.py"
