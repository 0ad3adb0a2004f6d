"""One streamed chat with the OpenAI SDK: BASE_URL MODEL PROMPT TOKENS [NODE ...]; with nodes over synkti_client."""

import json
import sys

from openai import OpenAI

base_url, model, prompt, tokens, *nodes = sys.argv[1:]
options = {}
if nodes:
    import synkti_client

    options["http_client"] = synkti_client.http_client(nodes)
client = OpenAI(base_url=base_url, api_key="none", max_retries=0, **options)
stream = client.chat.completions.create(
    model=model, messages=[{"role": "user", "content": prompt}], temperature=0, max_tokens=int(tokens), stream=True,
    extra_body={"ignore_eos": True},
)  # fmt: skip
text, reason = "", None
for chunk in stream:
    text += chunk.choices[0].delta.content or ""
    reason = chunk.choices[0].finish_reason or reason
print(json.dumps({"text": text, "reason": reason}))
