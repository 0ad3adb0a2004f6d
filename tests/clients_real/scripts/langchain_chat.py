"""One streamed chat with LangChain: BASE_URL MODEL PROMPT TOKENS."""

import json
import sys

from langchain_openai import ChatOpenAI

base_url, model, prompt, tokens = sys.argv[1:]
chat = ChatOpenAI(
    model=model, base_url=base_url, api_key="none", max_retries=0, temperature=0, max_tokens=int(tokens),
    extra_body={"ignore_eos": True},
)  # fmt: skip
text, reason = "", None
for chunk in chat.stream([("user", prompt)]):
    text += chunk.text if isinstance(chunk.text, str) else chunk.text()
    reason = chunk.response_metadata.get("finish_reason") or reason
print(json.dumps({"text": text, "reason": reason}))
