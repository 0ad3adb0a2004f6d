"""One streamed chat with LiteLLM: BASE_URL MODEL PROMPT TOKENS."""

import json
import os
import sys

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
import litellm

base_url, model, prompt, tokens = sys.argv[1:]
litellm.telemetry = False
stream = litellm.completion(
    model=f"openai/{model}", messages=[{"role": "user", "content": prompt}], temperature=0, max_tokens=int(tokens),
    stream=True, base_url=base_url, api_key="none", max_retries=0, extra_body={"ignore_eos": True},
)  # fmt: skip
text, reason = "", None
for chunk in stream:
    text += chunk.choices[0].delta.content or ""
    reason = chunk.choices[0].finish_reason or reason
print(json.dumps({"text": text, "reason": reason}))
