"""One streamed chat with instructor, without a response model: BASE_URL MODEL PROMPT TOKENS."""

import json
import sys

import instructor
from openai import OpenAI

base_url, model, prompt, tokens = sys.argv[1:]
client = instructor.from_openai(OpenAI(base_url=base_url, api_key="none", max_retries=0))
stream = client.chat.completions.create(
    response_model=None, model=model, messages=[{"role": "user", "content": prompt}], temperature=0,
    max_tokens=int(tokens), stream=True, extra_body={"ignore_eos": True},
)  # fmt: skip
text, reason = "", None
for chunk in stream:
    text += chunk.choices[0].delta.content or ""
    reason = chunk.choices[0].finish_reason or reason
print(json.dumps({"text": text, "reason": reason}))
