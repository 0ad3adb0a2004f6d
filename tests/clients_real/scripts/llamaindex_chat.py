"""One streamed chat with LlamaIndex: BASE_URL MODEL PROMPT TOKENS."""

import json
import sys

from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike

base_url, model, prompt, tokens = sys.argv[1:]
chat = OpenAILike(
    model=model, api_base=base_url, api_key="none", is_chat_model=True, max_retries=0, temperature=0,
    max_tokens=int(tokens), additional_kwargs={"extra_body": {"ignore_eos": True}},
)  # fmt: skip
text, reason = "", None
for part in chat.stream_chat([ChatMessage(role="user", content=prompt)]):
    text += part.delta or ""
    choices = part.raw.choices
    reason = (choices[0].finish_reason if choices else None) or reason
print(json.dumps({"text": text, "reason": reason}))
