# One streamed chat with java.net.http: BASE_URL MODEL PROMPT TOKENS. It offers HTTP/2, and takes HTTP/1.1.
set -euo pipefail
java "$(dirname "$0")/Chat.java" "$@" | python3 "$(dirname "$0")/events_to_json.py"
