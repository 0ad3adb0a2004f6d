"""One streamed message with Anthropic's SDK: BASE_URL MODEL PROMPT TOKENS."""

import json
import sys

from anthropic import Anthropic

base_url, model, prompt, tokens = sys.argv[1:]
client = Anthropic(base_url=base_url.removesuffix("/v1"), api_key="none", max_retries=0)
with client.messages.stream(
    model=model, messages=[{"role": "user", "content": prompt}], max_tokens=int(tokens), extra_body={"temperature": 0}
) as stream:
    text = "".join(stream.text_stream)
    reason = stream.get_final_message().stop_reason
if reason is None:
    raise SystemExit("the message has no stop_reason: it is not whole")
print(json.dumps({"text": text, "reason": reason}))
