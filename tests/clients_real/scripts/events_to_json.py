"""Reads the lines of a streamed chat from stdin, and prints its text and reason; it fails where no [DONE] came."""

import json
import sys

events = [line[6:] for line in sys.stdin.read().splitlines() if line.startswith("data: ")]
if events[-1:] != ["[DONE]"]:
    sys.exit("no [DONE]")
choices = [json.loads(event)["choices"][0] for event in events[:-1]]
text = "".join(choice["delta"].get("content") or "" for choice in choices)
print(json.dumps({"text": text, "reason": choices[-1]["finish_reason"]}))
